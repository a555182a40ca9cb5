"""The contract of a voice around any engine: who is let in, and what becomes of those who were cancelled."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gateway.triton.models.voices import Listener, Voice
from tests.support import fake_pb

fake_pb.install()

from gateway.triton.models import speech  # noqa: E402

Array = np.ndarray[Any, Any]
Model = speech.SpeechModel
STREAMS = 4
DEADLINE_S = 10.0


class Mouth:
    """Silent at its gate, as one that waits for another server: it does not see that it was cancelled."""

    rate = 16_000
    threads = STREAMS
    rests = True
    piece_chars = 200
    voices: tuple[Voice, ...] = (Voice("one", "en-US", "one", 1.0),)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.said: list[str] = []
        self.heard: list[Callable[[Array], bool]] = []

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Callable[[Array], bool]) -> None:
        self.said.append(text)
        self.heard.append(heard)
        self.entered.release()
        assert self.gate.wait(DEADLINE_S)
        heard(np.full(1_600, 3_000, np.int16))


@pytest.fixture
def mouth() -> Mouth:
    return Mouth()


@pytest.fixture
def model(mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(speech, "exit_with_parent", lambda: None)
    config = fake_pb.config("tts_mouth", max_streams=str(STREAMS), sample_rate="16000")
    made = Model({"model_config": json.dumps(config)}, lambda: mouth)
    yield made
    mouth.gate.set()
    made.finalize()


def say(model: Model, text: str | bytes, request_id: str = "", **inputs: Any) -> fake_pb.Request:
    told = text.encode() if isinstance(text, str) else text
    request = fake_pb.Request({"TEXT": np.array([told], np.object_), **inputs}, request_id=request_id)
    model.execute([request])
    return request


def cancel(model: Model, request: fake_pb.Request) -> None:
    told = fake_pb.Request({"CANCEL": np.array([True])}, request_id=request.request_id())
    model.execute([told])
    told.ended()
    request.ended()


def crowd(model: Model, mouth: Mouth, name: str, count: int = STREAMS) -> list[fake_pb.Request]:
    """At work in the engine."""
    made = [say(model, f"{name} {at}", f"{name}-{at}") for at in range(count)]
    for _ in made:
        assert mouth.entered.acquire(timeout=DEADLINE_S)
    return made


def sound(request: fake_pb.Request) -> Array:
    request.answer()
    return np.concatenate([one.outputs["AUDIO"] for one in request.responses])


def test_one_more_than_fit_is_refused(model: Model, mouth: Mouth) -> None:
    crowd(model, mouth, "first")
    with pytest.raises(fake_pb.TritonError, match="speaking 4 texts already") as refused:
        say(model, "one more").answer()
    assert refused.value.code == fake_pb.TritonError.UNAVAILABLE


def test_who_comes_after_a_cancelled_crowd_is_heard(model: Model, mouth: Mouth) -> None:
    """Also while the engine has not noticed yet that nobody listens: it waits for the engine, and is not refused."""
    for request in crowd(model, mouth, "first"):
        cancel(model, request)
    later = [say(model, f"later {at}") for at in range(STREAMS)]
    mouth.gate.set()
    assert all(len(sound(request)) for request in later)
    assert sorted(mouth.said)[STREAMS:] == [f"later {at}" for at in range(STREAMS)]


def test_crowds_that_are_cancelled_again_and_again_are_bounded(model: Model, mouth: Mouth) -> None:
    for request in crowd(model, mouth, "first"):
        cancel(model, request)
    second = [say(model, f"second {at}", f"second-{at}") for at in range(STREAMS)]
    for _ in range(5):  # rounds of the loop, until their calls wait for a thread of the engine
        model._thread.run(asyncio.sleep(0), DEADLINE_S)
    for request in second:
        cancel(model, request)
    with pytest.raises(fake_pb.TritonError, match="try again") as refused:
        say(model, "third").answer()
    assert refused.value.code == fake_pb.TritonError.UNAVAILABLE
    mouth.gate.set()


def test_who_was_cancelled_before_its_turn_costs_the_engine_nothing(model: Model, mouth: Mouth) -> None:
    for request in crowd(model, mouth, "first"):
        cancel(model, request)
    waiting = say(model, "second", "second")
    cancel(model, waiting)
    mouth.gate.set()
    last = say(model, "third")
    assert len(sound(last))
    assert "second" not in mouth.said


def test_an_engine_may_ask_how_its_listener_stands(model: Model, mouth: Mouth) -> None:
    """Whoever has heard nothing is due before now, and a cancelled one is not wanted, while nothing is handed on."""
    going = say(model, "Hello.", "a")
    assert mouth.entered.acquire(timeout=DEADLINE_S)
    listener = mouth.heard[0]
    assert isinstance(listener, Listener)
    assert listener.wanted
    assert listener.due < time.monotonic()
    cancel(model, going)
    assert not listener.wanted
