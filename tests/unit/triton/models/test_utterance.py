"""The promise of stable words, against an engine that changes its mind."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

CHUNK = np.zeros(2_560, np.float32)
Words = list[tuple[str, int, int]]


class ScriptedDecoder:
    """Shows one hypothesis after the other; times in 10 ms frames."""

    def __init__(self, *hypotheses: Words) -> None:
        self._hypotheses = list(hypotheses)
        self.fed: list[bytes] = []
        self.resets = 0

    def reinit_feat(self) -> None:
        self.resets += 1

    def start_utt(self) -> None: ...

    def end_utt(self) -> None: ...

    def process_raw(self, data: bytes, no_search: bool, full_utt: bool) -> None:
        self.fed.append(data)

    def seg(self) -> list[Any]:
        words = self._hypotheses.pop(0) if len(self._hypotheses) > 1 else self._hypotheses[0]
        return [SimpleNamespace(word=w, start_frame=a, end_frame=b) for w, a, b in words]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    path = Path(__file__).resolve().parents[4] / "model_repository/asr_pocketsphinx/1/utterance.py"
    spec = importlib.util.spec_from_file_location("utterance", path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def texts(words: list[Any]) -> str:
    return " ".join(word.text for word in words)


def test_fillers_and_variants_are_no_words(module: ModuleType) -> None:
    decoder = ScriptedDecoder([("<s>", 0, 4), ("the(2)", 5, 14), ("[NOISE]", 15, 19), ("<sil>", 20, 30)])
    utterance = module.Utterance(decoder)
    utterance.feed(CHUNK)
    words, _ = utterance.partial()
    assert [tuple(word) for word in words] == [("the", 50, 150)]


def test_a_word_is_stable_after_half_a_second_of_agreement(module: ModuleType) -> None:
    utterance = module.Utterance(ScriptedDecoder([("go", 0, 9), ("on", 10, 60)]))
    stable = []
    for _ in range(8):
        utterance.feed(CHUNK)
        stable.append(utterance.partial()[1])
    # Both agree from 160 ms on; `on` ends at 610 ms and settles 300 ms later.
    assert stable == [0, 0, 0, 1, 1, 2, 2, 2]


def test_what_was_announced_stays_when_the_engine_rewrites_it(module: ModuleType) -> None:
    early: Words = [("ten", 0, 19), ("miles", 20, 50)]
    late: Words = [("then", 0, 22), ("mild", 23, 45), ("winds", 46, 90)]
    utterance = module.Utterance(ScriptedDecoder(*[early] * 6, late, late))
    for _ in range(6):
        utterance.feed(CHUNK)
        words, stable = utterance.partial()
    assert texts(words[:stable]) == "ten miles"
    utterance.feed(CHUNK)
    words, stable = utterance.partial()
    assert (texts(words), stable) == ("ten miles winds", 2)
    assert [(word.start_ms, word.end_ms) for word in words] == [(0, 200), (200, 510), (510, 910)], "in order"
    assert texts(utterance.finish()) == "ten miles winds"


def test_the_last_path_may_change_what_was_not_announced(module: ModuleType) -> None:
    utterance = module.Utterance(ScriptedDecoder([("wreck", 0, 10)], [("recognise", 0, 30)]))
    utterance.feed(CHUNK)
    assert utterance.partial()[1] == 0
    assert texts(utterance.finish()) == "recognise"


def test_no_audio_is_no_words(module: ModuleType) -> None:
    utterance = module.Utterance(ScriptedDecoder([("ghost", 0, 10)]))
    utterance.feed(CHUNK[:0])
    assert utterance.finish() == []


def test_each_utterance_starts_afresh_and_hears_the_same_noise(module: ModuleType) -> None:
    decoder = ScriptedDecoder([])
    for _ in range(2):
        module.Utterance(decoder).feed(CHUNK)
    assert decoder.resets == 2
    assert decoder.fed[0] == decoder.fed[1]
    level = np.frombuffer(decoder.fed[0], "<i2").astype(np.float64).std() / 32768
    assert level == pytest.approx(2e-4, rel=0.1), "digital silence is never fed"


def test_noise_does_not_lift_samples_beyond_full_scale(module: ModuleType) -> None:
    decoder = ScriptedDecoder([])
    module.Utterance(decoder).feed(np.ones(1_000, np.float32))
    assert np.frombuffer(decoder.fed[0], "<i2").min() > 32_000


def test_unclear_sound_does_not_hold_up_the_final(module: ModuleType) -> None:
    pocketsphinx = pytest.importorskip("pocketsphinx")
    noise = (np.random.default_rng(0).standard_normal(16_000) * 0.1).astype(np.float32)

    def longest_s(decoder: Any) -> float:
        utterance = module.Utterance(decoder)
        spent = []
        for at in range(0, len(noise), len(CHUNK)):
            begin = time.process_time()
            utterance.feed(noise[at : at + len(CHUNK)])
            spent.append(time.process_time() - begin)
        utterance.finish()
        return max(spent)

    whole_search = pocketsphinx.Decoder(samprate=16_000, fwdflat=False, bestpath=True, loglevel="ERROR")
    assert longest_s(module.load_decoder()) < 0.7 * longest_s(whole_search)
