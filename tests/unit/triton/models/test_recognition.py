"""The contract of a recogniser around any engine: what one sequence does wrong harms no other."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gateway.triton.models.asr.batching import BatchWorkers
from gateway.triton.models.asr.engine import END, START, Heard, Job, Word
from gateway.triton.models.graphs import GraphError
from tests.support import fake_pb

fake_pb.install()

from gateway.triton.models import recognition  # noqa: E402

Array = np.ndarray[Any, Any]
Model = recognition.RecogniserModel
CHUNK = np.full(2_560, 0.1, np.float32)
NOTHING = np.zeros(0, np.float32)


class Ear:
    """Hears a word a chunk, and notes the loudest sample of each."""

    max_batch = 8
    at_once = 0

    def __init__(self) -> None:
        self.loudest: list[float] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def begin(self, language: str = "") -> list[Word]:
        return []

    def step(self, jobs: Sequence[Job[list[Word]]]) -> list[Heard | Exception]:
        assert self.gate.wait(5)
        if self.fails:
            raise GraphError("graph step failed: out of memory")
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


def test_a_graph_that_fails_ends_those_it_was_run_for_in_a_sentence(model: Model, ear: Ear) -> None:
    ask(model, CHUNK, 1, START).answer()
    ear.fails = True
    with pytest.raises(fake_pb.TritonError, match=r"^graph step failed: out of memory$") as failed:
        ask(model, CHUNK, 1).answer()
    assert failed.value.code == fake_pb.TritonError.UNAVAILABLE
    ear.fails = False
    assert text(ask(model, CHUNK, 2, START | END)) == "w0"
    with pytest.raises(fake_pb.TritonError, match="START"):
        ask(model, CHUNK, 1).answer()


def test_an_engine_that_cannot_begin_answers_all_the_same(
    model: Model, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(language: str = "") -> list[Word]:
        raise KeyError("prompts")

    with monkeypatch.context() as broken:
        broken.setattr(ear, "begin", begin)
        with pytest.raises(fake_pb.TritonError, match="KeyError: 'prompts'") as failed:
            ask(model, CHUNK, 1, START).answer()
    assert failed.value.code == fake_pb.TritonError.INTERNAL
    assert text(ask(model, CHUNK, 1, START | END)) == "w0"


def test_a_start_amid_a_sequence_begins_anew(model: Model) -> None:
    ask(model, CHUNK, 1, START).answer()
    assert text(ask(model, CHUNK, 1)) == "w0 w1"
    assert text(ask(model, CHUNK, 1, START)) == "w0"
    assert text(ask(model, NOTHING, 1, END)) == "w0"


@pytest.mark.parametrize("flags", [[START | END], [START, END], [START, 0, END]])
def test_an_end_without_audio_is_no_text(model: Model, flags: list[int]) -> None:
    answers = [ask(model, NOTHING, 1, one).answer().outputs for one in flags]
    assert [bool(one["IS_FINAL"][0, 0]) for one in answers] == [False] * (len(flags) - 1) + [True]
    assert answers[-1]["TRANSCRIPT"][0, 0] == b""
    assert answers[-1]["WORDS"].shape == (1, 0)
    assert answers[-1]["WORD_TIMES"].shape == (1, 0, 2)
    with pytest.raises(fake_pb.TritonError, match="START"):
        ask(model, NOTHING, 1, END).answer()


def test_who_stops_sending_holds_nobody_and_is_given_up(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of one that is silent for too long is another's."""
    monkeypatch.setattr(recognition, "exit_with_parent", lambda: None)
    monkeypatch.setattr(recognition, "IDLE_MARGIN_S", 0.05)
    for model in opened(ear, idle_us=50_000, max_streams=1):
        ask(model, CHUNK, 1, START).answer()
        with pytest.raises(fake_pb.TritonError, match="1 utterances are open already"):
            ask(model, CHUNK, 2, START).answer()
        (_, silent) = model._utterances[1]
        model._thread.run(asyncio.wait_for(asyncio.shield(silent), 5.0), 6.0)
        assert text(ask(model, CHUNK, 2, START | END)) == "w0"
        with pytest.raises(fake_pb.TritonError, match="START"):
            ask(model, CHUNK, 1).answer()


def test_chunks_sent_without_waiting_are_answered_up_to_a_bound(model: Model, ear: Ear) -> None:
    ear.gate.clear()
    sent = [ask(model, CHUNK, 1, START if at == 0 else 0) for at in range(recognition.MAX_WAITING + 5)]
    ear.gate.set()
    assert [text(one) for one in sent[:2]] == ["w0", "w0 w1"]
    with pytest.raises(fake_pb.TritonError, match="more than 32 chunks") as refused:
        sent[-1].answer()
    assert refused.value.code == fake_pb.TritonError.UNAVAILABLE
    # The first may have been taken up before the last came.
    heard = len(text(ask(model, NOTHING, 1, END)).split())
    assert heard in (recognition.MAX_WAITING, recognition.MAX_WAITING + 1)
