"""`parley drain triton` on a real server under live sequences and streams: then SIGTERM loses none, without it all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
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
from tests.chart.test_adapter_rules import TRITON
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
    """A session that is heard, chunk by chunk until it is enough, and spoken to, all of it on one Triton."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.begun, self.enough = asyncio.Event(), asyncio.Event()
        self.heard = self.sent = self.spoken = 0

    async def run(self) -> None:
        await asyncio.gather(self._hear(), self._speak())

    async def _hear(self) -> None:
        hold = self._fleet.hold(Want("asr", model="asr_count"))
        try:
            await hold.take(deadline_s=5)
            call = await hold.sequence()
            last = False
            while not last:
                last = self.enough.is_set()
                outputs = await call.infer(CHUNK, start=not self.sent, end=last, deadline_s=5)
                self.sent += CHUNK.size
                self.heard = int(outputs["TRANSCRIPT"][0])
                if self.sent > 3 * CHUNK.size:
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
        talks = [Talk(fleet) for _ in range(8)]
        tasks = [asyncio.create_task(talk.run()) for talk in talks]
        for talk in talks:
            await talk.begun.wait()
        assert {server.users for server in fleet.servers.listed} == {8}
        process = await drain(old, 30)
        assert process.stdout is not None
        assert "a front" in (await process.stdout.readline()).decode()
        servers = fleet.servers
        async with asyncio.timeout(10):  # told with the next word of its leases
            while any(server.address == old.grpc and not server.resting for server in servers.listed):
                if servers._changed is None:
                    servers._changed = asyncio.get_running_loop().create_future()
                await asyncio.shield(servers._changed)
        late = Talk(fleet)
        late.enough.set()
        await late.run()
        assert process.returncode is None
        for talk in talks:
            talk.enough.set()
        out = await said(process)
        assert process.returncode == 0, out
        assert "can be stopped" in out
        os.kill(old.pid, signal.SIGTERM)
        await asyncio.gather(*tasks)
        assert [(talk.heard, talk.spoken) for talk in (*talks, late)] == [
            (talk.sent, 50) for talk in (*talks, late)
        ]


async def test_the_series_that_autoscalers_ask_for_are_on_its_page(tmp_path: Path) -> None:
    async with server(tmp_path) as triton, fleet_of(triton) as fleet:
        talk = Talk(fleet)
        talk.enough.set()
        await talk.run()

        def page() -> str:
            with urllib.request.urlopen(f"{triton.metrics}/metrics", timeout=10) as response:
                return str(response.read().decode())

        async with asyncio.timeout(10):  # the page is made anew several times a second
            while "nv_inference_request_success{" not in (shown := await asyncio.to_thread(page)):
                pass
        for series in TRITON - {"nv_inference_first_response_histogram_ms"}:  # of later Tritons
            assert f'{series}{{model="asr_count"' in shown, series


async def test_a_triton_that_is_stopped_without_it_loses_its_utterances(tmp_path: Path) -> None:
    """If this fails, Triton has learnt to let sequences end, and the hook is not needed."""
    async with server(tmp_path) as triton, fleet_of(triton) as fleet:
        talks = [Talk(fleet) for _ in range(4)]
        tasks = [asyncio.create_task(talk.run()) for talk in talks]
        for talk in talks:
            await talk.begun.wait()
        os.kill(triton.pid, signal.SIGTERM)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, TritonError) for result in results), results


async def test_what_is_left_at_the_deadline_is_said(tmp_path: Path) -> None:
    async with server(tmp_path) as triton:
        async with fleet_of(triton) as fleet:
            talk = Talk(fleet)
            task = asyncio.create_task(talk.run())
            await talk.begun.wait()
            process = await drain(triton, 1)
            out = await said(process)
            assert process.returncode == 1
            assert "not drained within 1 s, left: asr_count" in out
            assert "by a front" in out
            talk.enough.set()
            await task
        # What is no process of Parley counts by its requests.
        async with open_channel(triton.grpc) as channel:
            call = SequenceCall(GRPCInferenceServiceStub(channel), "asr_count", drains=Drains(deadline_s=1))
            await call.infer(CHUNK, start=True, deadline_s=5)
            process = await drain(triton, 20)
            assert process.stdout is not None
            begun = asyncio.create_task(process.stdout.readline())
            until_s = float("inf")
            while (now := asyncio.get_running_loop().time()) < until_s:
                await call.infer(CHUNK, deadline_s=5)
                if until_s == float("inf") and begun.done():
                    until_s = now + 3.0  # longer than what counts as quiet
                await asyncio.sleep(0.1)
            assert process.returncode is None
            await call.infer(CHUNK, end=True, deadline_s=5)
            assert "can be stopped" in await said(process)
            assert "requests are being answered" in begun.result().decode()
            assert process.returncode == 0


async def test_where_no_triton_runs_there_is_nothing_to_drain() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "drain", "triton", "--triton", "127.0.0.1:1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out = await said(process)
    assert process.returncode == 0, out
    assert "no Triton answers at 127.0.0.1:1" in out
