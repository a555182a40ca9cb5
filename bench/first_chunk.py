"""First chunks of a voice under load: many streams on a model that burns CPU, over a real Triton."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from grpc.aio import Channel

from bench.slices import CORE_A, CORE_B, kept_to
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import request, text
from gateway.triton.infer import stream_decoupled
from gateway.triton.model_info import read_config
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains, Stream
from load.run.stage import can_pin
from load.run.usage import CpuMeter

MODELS = Path(__file__).parents[1] / "tests" / "data" / "models"
MODEL = "tts_light"
CPU_MS = 0.4
"""CPU of the engine for 160 ms of audio: a fifth of a core for 64 streams, which get their texts half a second
ahead; what Triton's backend does in the same process takes about as much again."""
FIRST_AUDIO_MS = 80
"""What the model makes before its first chunk leaves."""
HEAVY_MS = 16.0
"""CPU for 160 ms of audio where a cancel is to meet a model at work: ten such streams and it is behind."""
SPOKEN_MS = (1_000, 3_000)
"""Lengths of the texts' audio."""
_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: dict[int, float] = field(
        default_factory=lambda: {1: 120.0, 8: 30.0, 16: 30.0, 32: 30.0, 64: 40.0}
    )
    """How long each number of streams is measured."""
    crowds: int = 7
    """Times that 64 start at once."""
    cancels: int = 60

    @classmethod
    def short(cls) -> Plan:
        return cls({1: 8.0, 64: 6.0}, 2, 10)


@dataclass(slots=True)
class Level:
    """Steady state with so many streams."""

    streams: int
    first_ms: list[float]
    late: int
    """Chunks that came after their listener had run dry."""
    chunks: int
    busy: float
    """Share of a core that server and model used together."""
    model_busy: float
    """Share of a core that the model's process used."""


@dataclass(slots=True)
class Found:
    pinned: bool
    levels: list[Level] = field(default_factory=list)
    crowd_ms: list[list[float]] = field(default_factory=list)
    """Sorted first-chunk times of each crowd."""
    road_ms: list[list[float]] = field(default_factory=list)
    """The same on a model that has next to nothing to do: what the way there and back takes."""
    cancels: int = 0
    late_chunks: float = 0.0
    """Chunks that the engine made after a cancel, of all cancels."""
    worst_late: float = 0.0
    ended_ms: list[float] = field(default_factory=list)
    """From a cancel to the end of its stream, as the client sees it."""
    free_s: list[tuple[float, float]] = field(default_factory=list)
    """From a cancel to an engine that is free of it: (at most so many seconds, so many cancels), cumulative."""


@dataclass(slots=True)
class Server:
    triton: EmbeddedTriton
    channel: Channel
    stub: GRPCInferenceServiceStub
    drains: Drains

    async def load(self, cpu_ms: float, pace: float) -> None:
        config = read_config(MODELS / MODEL)
        config.parameters["cpu_ms"].string_value = str(cpu_ms)
        config.parameters["pace"].string_value = str(pace)
        repository = Repository(self.channel)
        await repository.unload(MODEL)
        await repository.load(MODEL, config)

    async def speak(self, words: str) -> AsyncIterator[dict[str, Any]]:
        async for answer in stream_decoupled(
            self.stub, MODEL, {"TEXT": text(words)},
            drains=self.drains, first_deadline_s=_WAIT_S, next_deadline_s=_WAIT_S,
        ):  # fmt: skip
            yield answer

    def keep_model_to(self, cores: set[int]) -> None:
        for pid in self.pids()[1] if cores else ():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)

    def pids(self) -> tuple[int, list[int]]:
        return self.triton.pid, self.triton.stub_pids().get(MODEL, [])


async def measure(plan: Plan) -> Found:
    """Raises: TritonError."""
    found = Found(can_pin({CORE_A}, {CORE_B}))
    async with _server(found.pinned) as server:
        with kept_to({CORE_B} if found.pinned else set()):
            await server.load(CPU_MS, 1.0)
            server.keep_model_to({CORE_A} if found.pinned else set())
            await _steady(server, 8, 2.0)  # connections, threads and caches are warm
            for streams, seconds in plan.seconds.items():
                found.levels.append(await _steady(server, streams, seconds))
            for _ in range(plan.crowds):
                found.crowd_ms.append(await _crowd(server, 64))
            await server.load(0.0, 1.0)
            server.keep_model_to({CORE_A} if found.pinned else set())
            for _ in range(plan.crowds):
                found.road_ms.append(await _crowd(server, 64))
            await server.load(HEAVY_MS, 1_000.0)
            server.keep_model_to({CORE_A} if found.pinned else set())
            await _cancels(server, plan.cancels, found)
        await server.drains.close()
    return found


@asynccontextmanager
async def _server(pinned: bool) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        with kept_to({CORE_B} if pinned else set()):  # what is started keeps to it
            triton = EmbeddedTriton([MODELS], log_dir=Path(folder), exit_s=2)
            await triton.start()
        try:
            async with open_channel(triton.grpc) as channel:
                yield Server(triton, channel, GRPCInferenceServiceStub(channel), Drains(deadline_s=_WAIT_S))
        finally:
            await triton.stop()


async def _steady(server: Server, streams: int, seconds: float) -> Level:
    """So many streams, each one text after the other, begun spread over the length of a text."""
    loop = asyncio.get_running_loop()
    server_pid, stubs = server.pids()
    whole, model = CpuMeter(), CpuMeter()
    level = Level(streams, [], 0, 0, 0.0, 0.0)
    spread_s = sum(SPOKEN_MS) / 2_000
    begin, over = loop.time() + spread_s, asyncio.Event()

    async def listener(number: int) -> None:
        dice = random.Random(number)
        await asyncio.sleep(spread_s * number / streams)
        while not over.is_set():
            ms = dice.randint(*SPOKEN_MS)
            asked, asked_at = time.perf_counter(), loop.time()
            first_at = heard_s = 0.0
            async for answer in server.speak(f"tone {400 + number * 20} for {ms}"):
                now = time.perf_counter()
                if not first_at:
                    first_at = now
                    if asked_at >= begin and not over.is_set():
                        level.first_ms.append((now - asked) * 1_000)
                elif now > first_at + heard_s:
                    level.late += 1
                level.chunks += 1
                heard_s += len(answer["AUDIO"]) / 16_000
            await asyncio.sleep(first_at + heard_s - time.perf_counter())  # listens to the end

    tasks = [asyncio.create_task(listener(number)) for number in range(streams)]
    await asyncio.sleep(begin - loop.time())
    before, model_before = whole.look([server_pid, *stubs]), model.look(stubs)
    began = loop.time()
    await asyncio.sleep(seconds)
    took = loop.time() - began
    level.busy = (whole.look([server_pid, *stubs]) - before) / took
    level.model_busy = (model.look(stubs) - model_before) / took
    over.set()
    await asyncio.gather(*tasks)
    return level


async def _crowd(server: Server, size: int) -> list[float]:
    """First-chunk times, sorted, of so many texts asked for at once."""

    async def one(number: int) -> float:
        asked, first_ms = time.perf_counter(), 0.0
        async for _ in server.speak(f"tone {400 + number * 20} for 1000"):
            first_ms = first_ms or (time.perf_counter() - asked) * 1_000
        return first_ms

    return sorted(await asyncio.gather(*(one(number) for number in range(size))))


async def _cancels(server: Server, count: int, found: Found) -> None:
    """One after the other, each in the middle of a minute of speech that the model is at work on."""
    found.cancels = count
    for _ in range(count):
        before = await _metric(server, "parley_tts_chunks_after_cancel_total")
        stream = Stream(server.stub, MODEL)
        stream.send(request(MODEL, {"TEXT": text("tone 600 for 60000")}))
        for _ in range(4):
            await stream.next(_WAIT_S)
        asked = time.perf_counter()
        stream.send(request(MODEL, {"CANCEL": np.array([True])}))
        while not stream.finished:
            await stream.next(_WAIT_S)
        found.ended_ms.append((time.perf_counter() - asked) * 1_000)
        stream.half_close()
        while await stream.next(_WAIT_S) is not None:
            pass
        async for _ in server.speak("tone 900 for 200"):
            pass  # the engine is certainly free of the other one now
        late = await _metric(server, "parley_tts_chunks_after_cancel_total") - before
        found.late_chunks += late
        found.worst_late = max(found.worst_late, late)
    found.free_s = await _buckets(server, "parley_tts_free_after_cancel_seconds_bucket")


async def _metric(server: Server, name: str) -> float:
    return sum(value for series, value in await _page(server) if series.startswith(name + "{"))


async def _buckets(server: Server, name: str) -> list[tuple[float, float]]:
    found = []
    for series, value in await _page(server):
        if series.startswith(name + "{"):
            found.append((float(series.split('le="')[1].split('"')[0].replace("+Inf", "inf")), value))
    return sorted(found)


async def _page(server: Server) -> list[tuple[str, float]]:
    def read() -> str:
        with urlopen(f"{server.triton.metrics}/metrics", timeout=5) as reply:
            page: str = reply.read().decode()
            return page

    page = await asyncio.to_thread(read)
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return [(series, float(value)) for series, _, value in lines if MODEL in series]
