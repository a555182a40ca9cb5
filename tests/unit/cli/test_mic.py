"""The sound devices' side of `talk --mic`, with devices that the test turns by hand."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gateway.cli import mic
from gateway.cli.common import Fault
from gateway.session.events import ReplyAudio

BLOCK = 480


class Device:
    """One stream; `turn` is what PortAudio's thread does every 10 ms."""

    latency = 0.01

    def __init__(self, *, callback: Any, **options: Any) -> None:
        assert options["samplerate"] == 48_000
        assert options["channels"] == 1
        self.callback, self.running = callback, False

    def start(self) -> None:
        self.running = True

    def close(self) -> None:
        self.running = False


class Output(Device):
    def turn(self) -> bytes:
        out = bytearray(BLOCK * 2)
        self.callback(memoryview(out), BLOCK, None, None)
        return bytes(out)


class Input(Device):
    def turn(self, pcm: bytes) -> None:
        self.callback(pcm, BLOCK, None, None)


@pytest.fixture
async def sound(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("livekit")
    module = SimpleNamespace(RawOutputStream=Output, RawInputStream=Input)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    made = mic._Sound(asyncio.get_running_loop())
    made.open()
    yield made
    made.close()


def frame(generation: int, sequence: int, value: int) -> ReplyAudio:
    return ReplyAudio("r1", generation, sequence, sequence * 20, np.full(960, value, "<i2").tobytes())


def loudness(block: bytes) -> set[int]:
    return set(np.frombuffer(block, "<i2").tolist())


async def test_reply_frames_are_played_in_order_then_silence(sound: Any) -> None:
    output = sound._streams[0]
    sound.play(frame(1, 0, 100))
    sound.play(frame(1, 1, 200))
    assert [loudness(output.turn()) for _ in range(5)] == [{100}, {100}, {200}, {200}, {0}]


async def test_a_flush_reaches_the_half_played_frame_and_keeps_newer_ones(sound: Any) -> None:
    output = sound._streams[0]
    sound.play(frame(1, 0, 100))
    sound.play(frame(1, 1, 100))
    sound.play(frame(2, 0, 300))
    assert loudness(output.turn()) == {100}
    sound.flush(1)
    sound.play(frame(1, 2, 100))
    assert [loudness(output.turn()) for _ in range(3)] == [{300}, {300}, {0}]


async def test_what_the_microphone_heard_is_sent_and_bounded(sound: Any) -> None:
    device = sound._streams[1]
    waiting = asyncio.create_task(sound.captured())
    await asyncio.sleep(0)
    device.turn(np.full(BLOCK, 500, "<i2").tobytes())
    async with asyncio.timeout(5):
        assert len(await waiting) == BLOCK * 2
    for _ in range(1_000):
        device.turn(bytes(BLOCK * 2))
    assert len(await sound.captured()) == 100 * BLOCK * 2, "one second at most"


async def test_devices_that_cannot_be_opened_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("livekit")

    def refuse(**_: Any) -> Device:
        raise ValueError("Error querying device -1")

    module = SimpleNamespace(RawOutputStream=Output, RawInputStream=refuse)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pytest.raises(Fault, match="sound devices cannot be opened"):
        mic._Sound(asyncio.get_running_loop()).open()
