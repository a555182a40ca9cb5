"""How soon PAUSE and RESUME of the TTS API act, as its client hears it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from bench.report import SAMPLE_COLUMNS, Part, Table, row, verdict
from bench.stats import FAILED
from gateway.cli.common import Fault
from gateway.protocol import tts_pb2 as pb
from gateway.protocol.tts_pb2_grpc import TtsStub

LIMIT_MS = 50.0
SESSIONS = 8
_SENTENCE = "The train leaves at seven in the morning and arrives late in the afternoon, if all goes well. "
_QUIET_S = 0.3
"""After a PAUSE frames are waited for as long as this."""
_SETTLE_S = 1.0
"""Before the first trial: every session has started by then."""
_ANSWER_S = 5.0
_FRAME_BYTES = 1_920


@dataclass(slots=True)
class Control:
    """Of all sessions of one run; ms."""

    pause_to_last: list[float] = field(default_factory=list)
    """From sending PAUSE to the arrival of the last frame; 0 when none came after it."""
    resume_to_first: list[float] = field(default_factory=list)
    frames: int = 0
    wrong_size: int = 0
    gaps: int = 0
    """Frames whose sequence number does not follow the one before."""
    crossed: int = 0
    """Frames of another session."""


class _Listener:
    """One session that speaks all the time; `frames` arrive while it does."""

    def __init__(self, stub: TtsStub, name: str, found: Control, *, fast: bool) -> None:
        self._stub, self._name, self._found, self._fast = stub, name, found, fast
        self.last = 0.0
        """Loop time of the last frame."""
        self._next = 0
        self._arrived = asyncio.Event()
        self._over = asyncio.Event()

    async def control(self, command: Any) -> None:
        request = pb.ControlRequest(session_id=self._name, command=command)
        await self._stub.Control(request, timeout=_ANSWER_S)

    async def frame(self, within_s: float) -> bool:
        """Whether one comes in time."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, trials: int, seed: int) -> None:
        delivery = pb.Delivery(as_fast_as_possible=self._fast)
        request = pb.StartSessionRequest(session_id=self._name, language="en-US", delivery=delivery)
        await self._stub.StartSession(request, timeout=60.0)
        listening = asyncio.create_task(self._listen())
        try:
            rng = random.Random(seed)
            await self.frame(_ANSWER_S)
            await asyncio.sleep(_SETTLE_S)
            for _ in range(trials):
                # Begun anew where the text ran out, which happens when nobody waits for real time.
                if listening.done():
                    await listening
                    listening = asyncio.create_task(self._listen())
                if not await self.frame(_ANSWER_S) and not listening.done():
                    raise Fault(f"no frame within {_ANSWER_S:g} s while {self._name} speaks")
                await asyncio.sleep(rng.uniform(0.0, 0.3 if not self._fast else 0.05))
                if not listening.done():
                    await self._trial()
        finally:
            self._over.set()
            await self._stub.EndSession(pb.EndSessionRequest(session_id=self._name), timeout=_ANSWER_S)
            await listening

    async def _trial(self) -> None:
        loop, found = asyncio.get_running_loop(), self._found
        sent = loop.time()
        await self.control(pb.PAUSE)
        await asyncio.sleep(_QUIET_S)
        if self._over.is_set():
            return
        found.pause_to_last.append(max(0.0, self.last - sent) * 1_000)
        waiting = asyncio.ensure_future(self.frame(_ANSWER_S))
        await asyncio.sleep(0)
        sent = loop.time()
        resumed = asyncio.create_task(self.control(pb.RESUME))
        came = await waiting
        found.resume_to_first.append((self.last - sent) * 1_000 if came else FAILED)
        await resumed

    async def _listen(self) -> None:
        loop, found = asyncio.get_running_loop(), self._found
        self._next = 0
        async for message in self._stub.Synthesize(self._texts()):
            if not message.HasField("frame"):
                continue
            self.last = loop.time()
            self._arrived.set()
            found.frames += 1
            found.crossed += message.session_id != self._name
            found.wrong_size += len(message.frame.audio) != _FRAME_BYTES
            found.gaps += message.frame.sequence != self._next
            self._next = message.frame.sequence + 1

    async def _texts(self) -> AsyncIterator[pb.SynthesizeRequest]:
        # More than is ever spoken: flow control holds it back.
        for _ in range(5_000):
            yield pb.SynthesizeRequest(session_id=self._name, text=_SENTENCE)
            if self._over.is_set():
                return


async def measure(address: str, *, trials: int, fast: bool, sessions: int = SESSIONS) -> Control:
    """trials: of each session. Raises Fault when the service does not do what it should."""
    found = Control()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = TtsStub(channel)  # type: ignore[no-untyped-call]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(sessions):
                    listener = _Listener(stub, f"bench-{fast:d}-{number}", found, fast=fast)
                    group.create_task(listener.run(trials, number))
        except* grpc.aio.AioRpcError as errors:
            first: Any = errors.exceptions[0]
            raise Fault(f"the TTS API at {address} failed: {first.details()}") from None
    return found


async def tts_control_part(address: str, *, quick: bool) -> Part:
    """address: of the service that has parley.v1.Tts."""
    trials = 3 if quick else 26
    part = Part(
        "tts-control",
        "TTS API: PAUSE and RESUME",
        f"{SESSIONS} sessions that speak all the time, {trials} trials in each, at random moments; ms. PAUSE: from sending "
        "it to the arrival of the last frame at the client, 0 where none came after it. RESUME: from sending it to the "
        "arrival of the first frame. At real time frames leave up to the lead ahead; as fast as possible they leave as "
        "the voice makes them, and what lies in the transport when PAUSE is sent still arrives: no goal there. Client and "
        "service share the machine.",
    )
    rows = []
    for fast in (False, True):
        found = await measure(address, trials=trials, fast=fast)
        how = "as fast as possible" if fast else "at real time"
        # Without real time the frames that wait in both ends' transport are as many as the client lets come up.
        goal = None if fast else LIMIT_MS
        rows.append(row(f"PAUSE → last frame, {how}", found.pause_to_last, p95=goal))
        rows.append(row(f"RESUME → first frame, {how}", found.resume_to_first, p95=goal))
        sound = found.gaps + found.wrong_size + found.crossed == 0
        part.findings.append(
            f"{how}: {found.frames} frames, {found.gaps} gaps in their numbers, {found.wrong_size} not of 1,920 bytes, "
            f"{found.crossed} of another session ({verdict('none', sound)})"
        )
        part.data["fast" if fast else "real_time"] = {
            "pause_to_last_ms": found.pause_to_last,
            "resume_to_first_ms": found.resume_to_first,
        }
    part.tables.append(Table(SAMPLE_COLUMNS, rows))
    return part
