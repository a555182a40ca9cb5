"""Moonshine's graphs and the front's decoding, held against transformers' own generate."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import MoonshineConfig, MoonshineForConditionalGeneration
from transformers.cache_utils import EncoderDecoderCache

from gateway.triton.models.asr.seq2seq import Seq2Seq, transcriber
from gateway.triton.models.exported import Folder
from parley_export.__main__ import export
from parley_export.checkpoint import open_checkpoint
from parley_export.families import moonshine, moonshine_ready
from parley_export.sounds import bursts

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
SECONDS = (1.7, 3.1, 0.06, 5.6, 0.4)


@pytest.fixture(scope="module")
def model() -> Any:
    checkpoint = open_checkpoint("moonshine", "random:small")
    config = checkpoint.config(MoonshineConfig, moonshine.SMALL)
    return checkpoint.model(MoonshineForConditionalGeneration, config, enliven=moonshine._enliven)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("moonshine", "random:small", tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def audios() -> list[Any]:
    return [bursts(seconds, 60 + at) for at, seconds in enumerate(SECONDS)]


def front(folder: Path, beam: int = 1) -> Seq2Seq:
    opened = Folder(folder / "1")
    opened.front["beam"] = beam
    return transcriber(opened)


def test_what_the_small_model_says_varies_and_ends(model: Any, folder: Path, audios: list[Any]) -> None:
    limits = [front(folder)._decoding.limit(len(audio)) for audio in audios]
    said = [moonshine.generate(model, audio, limit) for audio, limit in zip(audios, limits, strict=True)]
    assert len({tuple(one[:4]) for one in said}) >= 4
    assert max(len(set(one)) for one in said) >= 10
    assert any(len(one) < limit for one, limit in zip(said, limits, strict=True)), "none ended by itself"


def test_hidden_states_are_transformers_own_alone_and_among_longer_rows(
    model: Any, audios: list[Any]
) -> None:
    """transformers' group normalisation counts the silence that fills up a batch: ours must not."""
    encoder = moonshine.Encoder(model).eval()
    samples = torch.tensor([[len(audio)] for audio in audios])
    padded = torch.zeros(len(audios), int(samples.max()))
    for row, audio in zip(padded, audios, strict=True):
        row[: len(audio)] = torch.from_numpy(audio)
    with torch.no_grad():
        hidden, frames, *_ = encoder(padded, samples)
        for at, audio in enumerate(audios):
            wanted = model.model.encoder(torch.from_numpy(audio)[None]).last_hidden_state[0]
            assert int(frames[at]) == len(wanted) == moonshine_ready.frames_of(len(audio))
            assert (hidden[at, : len(wanted)] - wanted).abs().max() < 1e-4


def test_every_step_says_what_torch_says_with_its_own_cache(
    model: Any, folder: Path, audios: list[Any]
) -> None:
    steps = front(folder)._listener.listen([audios[1]]).steps()
    with torch.no_grad():
        encoded = model.model.encoder(torch.from_numpy(audios[1])[None])
        cache: EncoderDecoderCache | None = None
        ids = [1]
        for step in range(12):
            wanted = model(
                encoder_outputs=encoded,
                decoder_input_ids=torch.tensor([ids]),
                past_key_values=cache,
                use_cache=True,
            )
            cache = wanted.past_key_values
            logits, _ = steps.step(np.array([ids]))
            assert np.abs(logits - wanted.logits[:, -1].numpy()).max() < 1e-3, step
            ids = [int(logits[0].argmax())]


@pytest.mark.parametrize("beams", [1, 2])
def test_tokens_are_those_of_generate_alone_and_among_others(
    model: Any, folder: Path, audios: list[Any], beams: int
) -> None:
    ours = front(folder, beams)
    together = ours.texts(audios, [""] * len(audios))
    for text, audio in zip(together, audios, strict=True):
        assert text.tokens == moonshine.generate(model, audio, ours._decoding.limit(len(audio)), beams)
    assert ours.texts(audios[3:4], [""])[0] == together[3]


def test_what_is_too_short_has_no_words(folder: Path, audios: list[Any]) -> None:
    ours = front(folder)
    words = ours.transcribe([audios[0][:894], audios[0], audios[0][:1]], ["", "", ""])
    assert words[0] == words[2] == []
    assert words[1]


def test_words_come_in_order_and_none_behind_the_audio(folder: Path, audios: list[Any]) -> None:
    words = front(folder).transcribe(audios[3:4], [""])[0]
    assert len(words) > 2
    for before, after in itertools.pairwise(words):
        assert before.start_ms <= before.end_ms <= after.start_ms
    assert words[-1].end_ms <= len(audios[3]) / 16
