"""What every recogniser's answers keep, whatever its model babbles: times in order and inside the audio, nothing taken back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.triton.models.asr.buffered import Buffered
from gateway.triton.models.asr.engine import AnyRecogniser, Heard, Job, Samples, Word
from tests.unit.triton.models.asr.test_streaming import StepRun, recogniser

RATE = 16_000


class Babbler:
    """Says anything anew each time, in order: words of no length, of seconds, and beyond the end."""

    max_batch = 4
    max_s = 6.0

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        return [self._words(len(audio) * 1000 // RATE) for audio in audios]

    def _words(self, end_ms: int) -> list[Word]:
        dice = self._dice
        marks = sorted(dice.randint(0, end_ms + 500) for _ in range(2 * dice.randint(0, 9)))
        return [
            Word(dice.choice("abc"), start, end) for start, end in zip(marks[::2], marks[1::2], strict=True)
        ]


def check(recogniser: AnyRecogniser, audio: Samples, sizes: random.Random) -> None:
    utterance = recogniser.begin()
    promised: list[str] = []
    at = 0
    while at <= len(audio):
        size = sizes.choice([1, 777, 2_560, 40_000])
        last = at + size >= len(audio)
        (heard,) = recogniser.step([Job(utterance, audio[at : at + size], last)])
        at = min(at + size, len(audio)) + last
        assert isinstance(heard, Heard)
        marks = [mark for word in heard.words for mark in word[1:]]
        assert marks == sorted(marks)
        assert not marks or 0 <= marks[0] <= marks[-1] <= min(at, len(audio)) * 1000 // RATE
        texts = [word.text for word in heard.words]
        assert texts[: len(promised)] == promised
        promised = texts[: heard.stable]
        assert not last or heard.stable == len(texts)


@pytest.mark.parametrize("seed", range(30))
def test_of_models_that_hear_whole_utterances(seed: int) -> None:
    dice = random.Random(seed)
    audio = (0.1 * np.random.default_rng(seed).standard_normal(dice.randint(0, 30 * RATE))).astype(np.float32)
    check(Buffered(Babbler(seed), clock=lambda: 0.0), audio, dice)


@pytest.mark.parametrize("seed", range(10))
def test_of_models_that_hear_chunks(tmp_path: Path, seed: int) -> None:
    """They hear silence behind the end, and may hear words in it."""
    dice = random.Random(seed)
    audio = (0.1 * np.random.default_rng(seed).standard_normal(dice.randint(0, 3 * RATE))).astype(np.float32)
    check(recogniser(tmp_path, StepRun(), tail_s=0.5), audio, dice)


@pytest.mark.parametrize("samples", [0, 1, 160, 320, 1_600])
def test_of_audio_that_is_hardly_any(tmp_path: Path, samples: int) -> None:
    audio = np.full(samples, 0.1, np.float32)
    for made in (Buffered(Babbler(samples), clock=lambda: 0.0), recogniser(tmp_path, StepRun(), tail_s=0.5)):
        check(made, audio, random.Random(0))
