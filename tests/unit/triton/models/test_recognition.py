"""The contract of a recogniser around any engine: what one sequence does wrong harms no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gateway.triton.models.asr.batching import BatchWorkers
from gateway.triton.models.asr.engine import END, START, Heard, Job, Word
from tests.support import fake_pb

fake_pb.install()

from gateway.triton.models import recognition  # noqa: E402

Array = np.ndarray[Any, Any]
Model = recognition.RecogniserModel
CHUNK = np.full(2_560, 0.1, np.float32)


class Ear:
    """Hears a word a chunk, and notes the loudest sample of each."""

    max_batch = 8

    def __init__(self) -> None:
        self.loudest: list[float] = []
        self.fails = False

    def begin(self, language: str = "") -> list[Word]:
        return []

    def step(self, jobs: Sequence[Job[list[Word]]]) -> list[Heard | Exception]:
        if self.fails:
            raise RuntimeError("the graph failed")
        for job in jobs:
            self.loudest.append(float(np.abs(job.audio).max(initial=0.0)))
            if len(job.audio):
                at = 160 * len(job.utterance)
                job.utterance.append(Word(f"w{len(job.utterance)}", at, at + 160))
        return [Heard(list(job.utterance), len(job.utterance)) for job in jobs]


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def model(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(recognition, "exit_with_parent", lambda: None)
    yield from opened(ear)


def opened(ear: Ear, idle_us: int = 5_000_000, max_streams: int = 64) -> Iterator[Model]:
    config = fake_pb.config("asr_ear", languages="en-US")
    config["sequence_batching"]["max_sequence_idle_microseconds"] = idle_us
    made = Model({"model_config": json.dumps(config)}, lambda _: BatchWorkers(ear, max_streams), load_s=5.0)
    yield made
    made.finalize()


def ask(model: Model, audio: Array, sequence: int = 1, flags: int = 0, **inputs: Any) -> fake_pb.Request:
    request = fake_pb.Request({"AUDIO": audio[None], **inputs}, sequence=sequence, flags=flags)
    model.execute([request])
    return request


def text(request: fake_pb.Request) -> str:
    found: str = request.answer().outputs["TRANSCRIPT"][0, 0].decode()
    return found


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_and_other_sequences_go_on(model: Model, wrong: float) -> None:
    bad = CHUNK.copy()
    bad[7] = wrong
    ask(model, CHUNK, 1, START).answer()
    ask(model, CHUNK, 2, START).answer()
    with pytest.raises(fake_pb.TritonError, match="no finite numbers") as refused:
        ask(model, bad, 1).answer()
    assert refused.value.code == fake_pb.TritonError.INVALID_ARG
    assert text(ask(model, CHUNK, 2, END)) == "w0 w1"
    with pytest.raises(fake_pb.TritonError, match="START"):
        ask(model, CHUNK, 1).answer()
    assert text(ask(model, CHUNK, 1, START | END)) == "w0"


@pytest.mark.parametrize("loud", [1e30, -1e30, 1.5, float(np.finfo(np.float32).max)])
def test_what_is_louder_than_full_scale_is_cut_to_it(model: Model, ear: Ear, loud: float) -> None:
    bad = CHUNK.copy()
    bad[7] = loud
    ask(model, bad, 1, START).answer()
    assert ear.loudest == [1.0]


def test_denormal_samples_are_silence(model: Model, ear: Ear) -> None:
    ask(model, np.full(2_560, 1e-42, np.float32), 1, START).answer()
    assert ear.loudest == [0.0]
