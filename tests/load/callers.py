"""The callers' program under test: orders in, events out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from load.caller_build import ensure_caller

Event = dict[str, Any]


class Callers:
    """`async with callers(clips) as them:`"""

    def __init__(self, process: asyncio.subprocess.Process, clips: Path) -> None:
        self._process, self._clips = process, clips
        self._news = asyncio.Condition()
        self._next = 1
        self.events: list[Event] = []

    async def call(self, host: str, **plan: Any) -> int:
        """Start a caller of one turn, by default; returns its id."""
        number, self._next = self._next, self._next + 1
        usual = {"turns": 1, "think_ms": [50, 100], "reply_timeout_ms": 4000, "clips": str(self._clips)}
        await self.order({"cmd": "start", "id": number, "plan": {"host": host, **usual, **plan}})
        return number

    async def stop(self, number: int) -> None:
        await self.order({"cmd": "stop", "id": number})

    async def order(self, order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    async def quit(self) -> None:
        """Everybody hangs up, everything is written, the program ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(8):
            assert await self._process.wait() == 0

    async def event(self, within_s: float = 15.0, **wanted: Any) -> Event:
        """The first event with these values; waits for it."""

        def found() -> Event | None:
            return next((e for e in self.events if all(e.get(k) == v for k, v in wanted.items())), None)

        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(found)
        event = found()
        assert event is not None
        return event

    async def ended(self, number: int) -> Event:
        return await self.event(e="ended", id=number)

    def samples(self, number: int, name: str) -> list[Event]:
        return [e for e in self.events if e["e"] == "sample" and (e["id"], e["name"]) == (number, name)]

    def sample(self, number: int, name: str) -> Event:
        """The only one."""
        (found,) = self.samples(number, name)
        return found

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()


@asynccontextmanager
async def callers(clips: Path) -> AsyncIterator[Callers]:
    program = await asyncio.to_thread(ensure_caller)
    process = await asyncio.create_subprocess_exec(
        program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    them = Callers(process, clips)
    reading = asyncio.create_task(them.read())
    try:
        yield them
    finally:
        await them.quit()
        await reading
