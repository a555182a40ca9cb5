"""Load test: callers speak at real time, fall silent as people do, and stay for several turns on one stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.audio.pcm import rms_dbfs, to_float
from gateway.session import events as ev
from gateway.transports.voice_grpc import VoiceServer
from load.caller_build import BuildError, ensure_caller
from tests.load.gateway import World, make_clips

FRAME_S = 0.020
SPEECH_MS = 600
TURNS = 3


class Taped:
    """A connection whose incoming events are written down, with the loop time (s) of each."""

    def __init__(self, connection: ev.Connection, tape: list[tuple[float, ev.ClientEvent | None]]) -> None:
        self._connection, self._tape = connection, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def events(self) -> AsyncIterator[ev.ClientEvent]:
        now = asyncio.get_running_loop().time
        async for event in self._connection.events():
            self._tape.append((now(), event))
            yield event
        self._tape.append((now(), None))  # the client's half-close


class Taping:
    def __init__(self, world: World) -> None:
        self._world = world
        self.tapes: list[list[tuple[float, ev.ClientEvent | None]]] = []

    async def serve(self, connection: ev.Connection) -> None:
        self.tapes.append([])
        await self._world.sessions.serve(Taped(connection, self.tapes[-1]))


async def call(
    folder: Path, **plan: Any
) -> tuple[list[list[tuple[float, ev.ClientEvent | None]]], list[dict[str, Any]]]:
    """What the server got of one caller, stream by stream, and what the caller reported."""
    try:
        program = await asyncio.to_thread(ensure_caller)
    except BuildError as error:
        pytest.skip(str(error))
    world = World()
    world.tts.ms_per_char = 15.0
    taping = Taping(world)
    server = VoiceServer(taping, world.settings.session, "127.0.0.1:0")
    address = await server.start()
    caller = await asyncio.create_subprocess_exec(
        program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    reports: list[dict[str, Any]] = []
    try:
        clips = make_clips(folder, speech_ms=SPEECH_MS)
        defaults = {"host": address, "clips": str(clips), "turns": TURNS, "think_ms": [300, 500], "seed": 3}
        order = {"cmd": "start", "id": 1, "plan": defaults | plan}
        caller.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(60):
            while line := await caller.stdout.readline():
                reports.append(json.loads(line))
                if reports[-1]["e"] == "ended":
                    break
    finally:
        caller.stdin.close()
        await caller.wait()
        await world.sessions.drain(0.0)
        await server.stop(0.0)
    return taping.tapes, reports


async def test_callers_are_people_on_a_phone(tmp_path: Path) -> None:
    tapes, reports = await call(tmp_path)
    ended = next(report for report in reports if report["e"] == "ended")
    assert ended["ok"], ended
    turns = [r for r in reports if r["e"] == "sample" and r["name"] == "turn"]
    assert [turn["ok"] for turn in turns] == [True] * TURNS

    # Multi-turn streams: one connection for the whole conversation.
    (tape,) = tapes
    audio = [(at, event.pcm) for at, event in tape if isinstance(event, ev.AudioIn)]

    # Realtime pacing: 20 ms of audio each 20 ms, speaking or not, never ahead of the clock by more than a frame.
    assert {len(pcm) for _, pcm in audio} == {640}
    start = audio[0][0]
    assert min(at - start - number * FRAME_S for number, (at, _) in enumerate(audio)) > -2 * FRAME_S
    seconds = audio[-1][0] - start
    assert seconds > TURNS * SPEECH_MS / 1000 + 1
    assert abs(len(audio) * FRAME_S - seconds) < 0.5

    # A realistic end of speech: the microphone stays open, with the noise of a room, until the caller hangs up.
    levels = np.array([rms_dbfs(to_float(pcm)) for _, pcm in audio])
    loud = levels > -30
    begins = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    assert len(begins) == TURNS
    for begin in begins:
        after = levels[begin + SPEECH_MS // 20 + 8 : begin + SPEECH_MS // 20 + 28]
        assert len(after) == 20
        assert after.max() < -50
        assert after.min() > -90  # no digital silence: a detector must tell it from speech
    others = [event for _, event in tape if not isinstance(event, ev.AudioIn | ev.Truncate)]
    assert isinstance(
        others[0], ev.Close
    )  # nothing said where speech ends: no commit, no half-close before it
    assert tape[-1][1] is None or isinstance(tape[-1][1], ev.Close)


async def test_voice_to_voice_is_counted_from_the_true_end_of_speech(tmp_path: Path) -> None:
    tapes, reports = await call(tmp_path, turns=1)
    (tape,) = tapes
    samples = {r["name"]: r["ms"] for r in reports if r["e"] == "sample"}
    audio = [(at, event.pcm) for at, event in tape if isinstance(event, ev.AudioIn)]
    loud = [at for at, pcm in audio if rms_dbfs(to_float(pcm)) > -30]
    # Before the final transcript lie the hangover and the recogniser: a figure that began there would miss them.
    assert samples["voice_to_voice"] >= samples["speech_end_to_final"] >= 224
    assert len(loud) == pytest.approx(SPEECH_MS / 20, abs=1)
