"""Two real servers: streams and sequences stay on theirs; those of one that is killed move, and it is used again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import pytest

from gateway.triton.channel import GRPCInferenceServiceStub, open_stream_channel
from gateway.triton.codec import text
from gateway.triton.errors import TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.repository import Repository
from gateway.triton.routing.figures import Request
from gateway.triton.routing.server import Server
from gateway.triton.routing.servers import Servers
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains
from tests.support.stack import TEST_MODELS, skip_without_triton

pytestmark = pytest.mark.stack

MODELS = ("tts_tone", "asr_count", "asr_count_decoupled")
CHUNKS, CHUNK = 50, 1600
"""Of an utterance and of a synthesis: some 1.6 s of both."""


class Calls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.inference = GRPCInferenceServiceStub(channel)
        self.repository = Repository(channel)


async def has_models(server: Server[Calls]) -> bool:
    with server.line.use() as connection:
        return {m.name for m in await connection.stubs.repository.index(ready=True)} >= set(MODELS)


@dataclass(eq=False)
class Caller:
    """One session; it asks for another server when its own is lost."""

    servers: Servers[Calls]
    drains: Drains
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    on: list[str] = field(default_factory=list)
    heard: str = ""

    async def run(self, wanted: str, work: Callable[[Caller, Server[Calls]], Awaitable[str]]) -> None:
        for last_try in (False, True):
            try:
                async with self.servers.use("" if last_try else wanted) as server:
                    self.on.append(server.address)
                    self.heard = await work(self, server)
                    return
            except TritonUnavailable:
                if last_try:
                    raise
            finally:
                self.begun.set()


async def speak(caller: Caller, server: Server[Calls]) -> str:
    chunks = 0
    with server.line.use() as connection, measured(caller, server, "tts_tone") as request:
        responses = stream_decoupled(
            connection.stubs.inference,
            "tts_tone",
            {"TEXT": text(str(CHUNKS))},
            drains=caller.drains,
            first_deadline_s=5,
            next_deadline_s=5,
        )
        async with aclosing(responses):
            async for _ in responses:
                request.answered()
                chunks += 1
                if chunks == 3:
                    caller.begun.set()
    return str(chunks)


async def recognise(caller: Caller, server: Server[Calls], *, model: str) -> str:
    with server.line.use() as connection, measured(caller, server, model) as request:
        call = SequenceCall(
            connection.stubs.inference, model, drains=caller.drains, decoupled=model.endswith("_decoupled")
        )
        heard = ""
        try:
            for number in range(CHUNKS):
                outputs = await call.infer(
                    np.zeros(CHUNK, np.float32), start=number == 0, end=number == CHUNKS - 1, deadline_s=5
                )
                request.answered()
                heard = str(outputs["TRANSCRIPT"][0])
                if number == 2:
                    caller.begun.set()
                await asyncio.sleep(0.03)  # as a microphone would
        finally:
            call.give_up()
    return heard


def measured(caller: Caller, server: Server[Calls], model: str) -> Request:
    return caller.servers.figures.of(server.address, model).request()


@asynccontextmanager
async def two_servers(logs: Path) -> AsyncIterator[tuple[EmbeddedTriton, EmbeddedTriton]]:
    both = [
        EmbeddedTriton((TEST_MODELS,), models=MODELS, log_dir=logs / str(number), exit_s=2)
        for number in (1, 2)
    ]
    try:
        await asyncio.gather(*(each.start() for each in both))
        yield both[0], both[1]
    finally:
        await asyncio.gather(*(each.stop() for each in both))


async def test_callers_of_a_killed_server_move_and_the_others_are_untouched(tmp_path: Path) -> None:
    skip_without_triton()
    drains = Drains(deadline_s=2.0)
    async with two_servers(tmp_path) as (killed, other):
        servers = Servers(
            f"{killed.grpc},{other.grpc}",
            lambda address, name: open_stream_channel(address, name=name),
            Calls,
            probe=has_models,
        )
        try:

            def one_of_each(address: str) -> dict[Caller, asyncio.Task[None]]:
                work = [
                    speak,
                    lambda caller, server: recognise(caller, server, model="asr_count"),
                    lambda caller, server: recognise(caller, server, model="asr_count_decoupled"),
                ]
                callers = [Caller(servers, drains) for _ in work]
                return {
                    caller: asyncio.create_task(caller.run(address, its))
                    for caller, its in zip(callers, work, strict=True)
                }

            moving, staying = one_of_each(killed.grpc), one_of_each(other.grpc)
            async with asyncio.timeout(10):
                for caller in (*moving, *staying):
                    await caller.begun.wait()
            loads = [servers.figures.load(each.grpc, model) for each in (killed, other) for model in MODELS]
            assert [load.queue for load in loads] == [1] * 6
            assert all(load.p50_s is not None for load in loads)
            os.kill(killed.pid, signal.SIGKILL)
            async with asyncio.timeout(15):
                await asyncio.gather(*moving.values(), *staying.values())
            total = str(CHUNKS * CHUNK)
            assert [caller.heard for caller in (*moving, *staying)] == [str(CHUNKS), total, total] * 2
            assert [caller.on for caller in moving] == [[killed.grpc, other.grpc]] * 3
            assert [caller.on for caller in staying] == [[other.grpc]] * 3

            def the_killed(ready: Sequence[Server[Calls]]) -> Server[Calls] | None:
                return next((server for server in ready if server.address == killed.grpc), None)

            async with servers.use(the_killed, wait_s=15):
                pass
            back = Caller(servers, drains)
            await back.run(killed.grpc, speak)
            assert (back.on, back.heard) == ([killed.grpc], str(CHUNKS))
            assert killed.restarts == 1
        finally:
            await drains.close()
            await servers.close()
