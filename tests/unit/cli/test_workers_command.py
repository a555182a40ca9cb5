"""`parley serve gateway --workers`: signals, and what is left after a hard end of the parent."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.session import events as ev
from tests.support.caller import Caller
from tests.support.processes import alive, children, gone

NOWHERE = {
    "PARLEY_ASR__URI": "127.0.0.1:1",
    "PARLEY_TTS__URI": "127.0.0.1:1",
    "PARLEY_LLM__BASE_URL": "http://127.0.0.1:1/v1",
}


@dataclass
class Running:
    process: asyncio.subprocess.Process
    address: str
    workers: list[int]

    async def ended(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.wait()


@asynccontextmanager
async def serving(**environment: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "serve", "gateway", "--workers", "2",
        "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | NOWHERE | environment,
    )  # fmt: skip
    workers: list[int] = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"is ready: grpc (\S+)", line)
        assert found, line
        workers = children(process.pid)
        assert len(workers) == 2
        yield Running(process, found[1], workers)
        for pid in workers:
            await gone(pid)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for pid in workers:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """SIGSTOP for a process, which cannot notice then that its parent is gone; killed however this test ends, be it
    by its own process' death: the pipe to the one that watches is closed by that, too."""
    read, write = os.pipe()
    watch = await asyncio.create_subprocess_exec(
        "sh", "-c", f'read over; [ -n "$over" ] || kill -KILL {pid}', stdin=read, start_new_session=True
    )
    os.close(read)
    try:
        os.kill(pid, signal.SIGSTOP)
        yield
        await gone(pid)
        os.write(write, b"over\n")
    finally:
        os.close(write)
        await watch.wait()


async def test_a_signal_drains_all() -> None:
    async with serving() as running, Caller(running.address) as one, Caller(running.address) as other:
        running.process.send_signal(signal.SIGTERM)
        for caller in (one, other):
            assert (await caller.until(ev.Closed)).reason == "shutdown"
        assert await running.ended() == 0


async def test_a_second_signal_ends_all_at_once() -> None:
    async with serving(PARLEY_SESSION__DRAIN_S="60") as running, stopped(running.workers[0]):
        # A worker that would keep the drain waiting.
        running.process.send_signal(signal.SIGINT)
        await gone(running.workers[1])
        assert running.process.returncode is None
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 1


async def test_workers_end_when_their_parent_is_killed() -> None:
    async with serving() as running, Caller(running.address) as caller:
        running.process.kill()
        await running.ended()
        assert (await caller.until(ev.Closed)).reason == "shutdown"
