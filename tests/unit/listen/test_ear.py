"""From bytes to verdicts: what is asked of the detector, what is kept, and who is told."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gateway.listen.ear import Ear, Gate, Guard, Window
from gateway.listen.echo import EchoGuard
from gateway.listen.gate import NoiseGate
from gateway.listen.vad import WINDOW
from gateway.settings import EchoSettings, GateSettings, VadSettings
from tests.unit.session.harness import virtual

RATE = 16_000


class Stream:
    """A detector that is asked for its answers."""

    def __init__(self, on_probability: Callable[[float], None]) -> None:
        self.answer = on_probability
        self.got: list[npt.NDArray[np.float32]] = []
        self.rests = False
        self.closed = False

    def push(self, window: npt.NDArray[np.float32]) -> None:
        self.got.append(window)

    def push_pcm(self, samples: npt.NDArray[np.int16]) -> None:
        assert samples.dtype == np.int16
        self.got.append(samples.astype(np.float32) / 32768)

    def push_silence(self) -> bool:
        if not self.rests:
            self.got.append(np.zeros(WINDOW, np.float32))
        return self.rests

    def close(self) -> None:
        self.closed = True


class Detector:
    backlog_ms = 0.0

    def open(self, on_probability: Callable[[float], None]) -> Stream:
        self.stream = Stream(on_probability)
        return self.stream

    async def close(self) -> None: ...


def listening(
    guard: Guard | None = None, gate: Gate | None = None, **settings: int
) -> tuple[Ear, Stream, list[Window]]:
    heard: list[Window] = []
    detector = Detector()
    vad = VadSettings.model_validate(settings)
    ear = Ear(detector, vad, input_rate=RATE, guard=guard, gate=gate, on_window=heard.append)
    return ear, detector.stream, heard


def window(value: int) -> bytes:
    return np.full(WINDOW, value, "<i2").tobytes()


@virtual
async def test_any_cut_of_the_bytes_gives_the_same_windows() -> None:
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 6 * WINDOW).astype("<i2")
    for size in (1, 333, 640, 5_000):
        ear, stream, _ = listening()
        pcm = samples.tobytes()
        for at in range(0, len(pcm), size):
            ear.feed(pcm[at : at + size])
        assert np.array_equal(np.concatenate(stream.got), samples.astype(np.float32) / 32768)


@virtual
async def test_the_ring_holds_what_an_onset_may_reach_and_what_is_at_the_detector() -> None:
    ear, stream, heard = listening(pre_roll_ms=96, onset_windows=2)
    for k in range(40):
        ear.feed(window(k + 1))
        stream.answer(0.5)
        assert len(ear._ring) <= 5
    assert [w.index for w in heard] == list(range(40))
    assert ear.since(38 - 3) == [window(k + 1) for k in range(35, 40)]
    for k in range(40, 60):  # the detector falls behind
        ear.feed(window(k + 1))
    stream.answer(0.5)
    assert ear.since(heard[-1].index - 1 - 3) == [window(k + 1) for k in range(36, 60)]
    ear.feed(window(1) * 500)
    assert len(ear._ring) == 96


@virtual
async def test_verdicts_of_no_interest_are_not_told_and_still_counted() -> None:
    ear, stream, heard = listening()
    ear.least = 0.5
    for probability in (0.1, 0.5, 0.2, 0.9):
        ear.feed(window(1_000))
        stream.answer(probability)
    assert [(w.index, w.probability) for w in heard] == [(1, 0.5), (3, 0.9)]


@virtual
async def test_silence_of_a_resting_stream_is_told_after_what_came_before_it_and_never_at_once() -> None:
    ear, stream, heard = listening()
    stream.rests = True
    ear.feed(window(0) * 2)
    assert not heard
    await asyncio.sleep(0)
    assert [(w.index, w.probability) for w in heard] == [(0, 0.0), (1, 0.0)]
    ear.feed(window(0))
    ear.least = 0.5  # nobody asks any more, yet one that waits comes first
    ear.feed(window(0))
    await asyncio.sleep(0)
    ear.feed(window(0) * 3)
    ear.least = 0.0
    ear.feed(window(0))
    await asyncio.sleep(0)
    assert [w.index for w in heard] == [0, 1, 7]
    ear.feed(window(0))
    ear.close()
    await asyncio.sleep(0)
    assert [w.index for w in heard] == [0, 1, 7]


@virtual
async def test_answered_waits_for_the_detector_but_not_for_ever() -> None:
    ear, stream, heard = listening()
    loop = asyncio.get_running_loop()
    await ear.answered(5)
    assert loop.time() < 1
    ear.feed(window(1) * 2)
    loop.call_later(1, stream.answer, 0.0)
    loop.call_later(2, stream.answer, 0.0)
    began = loop.time()
    await ear.answered(5)
    assert 1.9 < loop.time() - began < 2.1
    ear.feed(window(1))
    began = loop.time()
    await ear.answered(0.5)
    assert 0.4 < loop.time() - began < 0.6
    assert len(heard) == 2


@virtual
async def test_guard_and_gate_get_what_they_would_get_of_float_windows() -> None:
    """The ear works on int16 as far as it can; its decisions are those on float windows."""
    rng = np.random.default_rng(2)
    out = rng.integers(-8_000, 8_000, 60 * WINDOW).astype("<i2")
    samples = rng.integers(-40, 40, 120 * WINDOW).astype("<i2")
    samples[10 * WINDOW : 60 * WINDOW] += out[8 * WINDOW : 58 * WINDOW] // 4  # an echo, and the room
    samples[80 * WINDOW : 85 * WINDOW] *= 50
    guards = [EchoGuard(EchoSettings()) for _ in range(2)]
    gate = NoiseGate(GateSettings())
    ear, stream, _ = listening(guards[0], NoiseGate(GateSettings()))
    for k in range(120):
        if k < 60:
            for guard in guards:
                guard.played(out[k * WINDOW : (k + 1) * WINDOW].tobytes())
        chunk = samples[k * WINDOW : (k + 1) * WINDOW]
        ear.feed(chunk.tobytes())
        wanted = gate.process(guards[1].suppress(chunk.astype(np.float32) / 32768))
        assert np.array_equal(stream.got[-1], wanted), k
        stream.answer(0.1)
    assert guards[0].delay_ms == guards[1].delay_ms is not None
    ear.close()
    assert stream.closed


@virtual
async def test_what_is_closed_hears_nothing_and_holds_nobody() -> None:
    class Listener:
        def heard(self, window: Window) -> None: ...

    listener = Listener()
    detector = Detector()
    ear = Ear(detector, VadSettings(), input_rate=RATE, guard=None, gate=None, on_window=listener.heard)
    ear.tap = lambda pcm: None
    ear.feed(window(1) * 3)
    gone = weakref.ref(listener)
    del listener
    ear.close()
    assert gone() is None, "without the collector"
    count = len(detector.stream.got)
    ear.feed(window(1))
    ear.feed_silence(64)
    assert len(detector.stream.got) == count
    assert not ear.since(0)
