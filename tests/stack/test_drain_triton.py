"""`parley drain triton` on a real server under live sequences and streams: then SIGTERM loses none, without it all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from gateway.settings import ModelsSettings
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import TritonError
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.infer import SequenceCall
from gateway.triton.routing.choose import Want
from gateway.triton.server import EmbeddedTriton
from gateway.triton.stream import Drains
from tests.support.stack import TEST_MODELS, skip_without_triton

pytestmark = pytest.mark.stack

CHUNK = np.zeros(1_600, np.float32)
MODELS = ModelsSettings(asr="asr_count", tts="tts_tone", lease_s=3.0)


@asynccontextmanager
async def server(logs: Path) -> AsyncIterator[EmbeddedTriton]:
    skip_without_triton()
    triton = EmbeddedTriton((TEST_MODELS,), models=("asr_count", "tts_tone"), log_dir=logs, exit_s=2)
    try:
        await triton.start()
        yield triton
    finally:
        await triton.stop()


@asynccontextmanager
async def fleet_of(*servers: EmbeddedTriton) -> AsyncIterator[Fleet]:
    fleet = Fleet(",".join(one.grpc for one in servers), models=MODELS, label="a front")
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


class Talk:
    """A session that is heard, chunk by chunk, and spoken to, all of it on one Triton."""

    def __init__(self, fleet: Fleet, chunks: int) -> None:
        self._fleet, self._chunks = fleet, chunks
        self.begun, self.left = asyncio.Event(), chunks
        self.heard = self.spoken = 0

    async def run(self) -> None:
        await asyncio.gather(self._hear(), self._speak())

    async def _hear(self) -> None:
        hold = self._fleet.hold(Want("asr", model="asr_count"))
        try:
            await hold.take(deadline_s=5)
            call = await hold.sequence()
            for number in range(self._chunks):
                outputs = await call.infer(
                    CHUNK, start=number == 0, end=number == self._chunks - 1, deadline_s=5
                )
                self.heard, self.left = int(outputs["TRANSCRIPT"][0]), self._chunks - number - 1
                if number == 3:
                    self.begun.set()
                await asyncio.sleep(0.05)  # as a microphone would
        finally:
            self.begun.set()
            hold.release()

    async def _speak(self) -> None:
        hold = self._fleet.hold(Want("tts", model="tts_tone"))
        try:
            await hold.take(deadline_s=5)
            inputs = {"TEXT": text("50")}
            async for _ in hold.stream(inputs, first_deadline_s=5, next_deadline_s=5):
                self.spoken += 1
        finally:
            hold.release()


async def drain(triton: EmbeddedTriton, timeout_s: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", triton.grpc, "--timeout",
        str(timeout_s), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def said(process: asyncio.subprocess.Process) -> str:
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    return out.decode()


async def test_drained_first_a_triton_that_is_stopped_loses_nothing(tmp_path: Path) -> None:
    async with server(tmp_path / "1") as old, server(tmp_path / "2") as new, fleet_of(old, new) as fleet:
        talks = [Talk(fleet, 60) for _ in range(8)]
        tasks = [asyncio.create_task(talk.run()) for talk in talks]
        for talk in talks:
            await talk.begun.wait()
        process = await drain(old, 30)
        assert process.stdout is not None
        assert "a front" in (await process.stdout.readline()).decode()
        servers = fleet.servers
        async with asyncio.timeout(10):  # told with the next word of its leases
            while any(server.address == old.grpc and not server.resting for server in servers.listed):
                if servers._changed is None:
                    servers._changed = asyncio.get_running_loop().create_future()
                await asyncio.shield(servers._changed)
        assert any(talk.left for talk in talks)
        late = Talk(fleet, 20)
        await late.run()
        out = await said(process)
        assert process.returncode == 0, out
        assert "can be stopped" in out
        os.kill(old.pid, signal.SIGTERM)
        await asyncio.gather(*tasks)
        assert [(talk.heard, talk.spoken) for talk in (*talks, late)] == [(60 * 1_600, 50)] * 8 + [
            (20 * 1_600, 50)
        ]


async def test_a_triton_that_is_stopped_without_it_loses_its_utterances(tmp_path: Path) -> None:
    """If this fails, Triton has learnt to let sequences end, and the hook is not needed."""
    async with server(tmp_path) as triton, fleet_of(triton) as fleet:
        talks = [Talk(fleet, 60) for _ in range(4)]
        tasks = [asyncio.create_task(talk.run()) for talk in talks]
        for talk in talks:
            await talk.begun.wait()
        os.kill(triton.pid, signal.SIGTERM)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, TritonError) for result in results), results


async def test_what_is_left_at_the_deadline_is_said(tmp_path: Path) -> None:
    async with server(tmp_path) as triton:
        async with fleet_of(triton) as fleet:
            talk = Talk(fleet, 80)
            task = asyncio.create_task(talk.run())
            await talk.begun.wait()
            process = await drain(triton, 1)
            out = await said(process)
            assert process.returncode == 1
            assert "not drained within 1 s, left: asr_count" in out
            assert "by a front" in out
            await task
        # What is no process of Parley counts by its requests.
        async with open_channel(triton.grpc) as channel:
            call = SequenceCall(GRPCInferenceServiceStub(channel), "asr_count", drains=Drains(deadline_s=1))
            process = await drain(triton, 20)
            answers = 0
            reading = asyncio.create_task(said(process))
            while answers < 30:
                await call.infer(CHUNK, start=answers == 0, end=answers == 29, deadline_s=5)
                answers += 1
                assert answers < 10 or not reading.done()
                await asyncio.sleep(0.1)
            assert "requests are being answered" in await reading
            assert process.returncode == 0


async def test_where_no_triton_runs_there_is_nothing_to_drain() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", "127.0.0.1:1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out = await said(process)
    assert process.returncode == 0, out
    assert "no Triton answers at 127.0.0.1:1" in out
