"""A session under test: fakes around it, virtual time under it, and nothing left behind after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.session import events as ev
from gateway.session.manager import Sessions
from gateway.session.memory import Memory
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from tests.support.fakes import FakeConnection, FakeLlm, FakeRecognizer, FakeTts, FakeVad, silence, speech
from tests.support.virtual_time import run_virtual, settle


class World:
    """The parts that sessions of one test share."""

    def __init__(self, *, memory: Memory | None = None, tracing: Any = None, **settings: Any) -> None:
        defaults: dict[str, Any] = {"echo": {"enabled": False}, "gate": {"enabled": False}}
        self.settings = Settings(**{**defaults, **settings})
        self.asr, self.llm, self.tts, self.vad = FakeRecognizer(), FakeLlm(), FakeTts(), FakeVad()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.sessions = Sessions(
            self.settings,
            self.asr,
            self.llm,
            self.tts,
            self.vad,
            self.metrics,
            memory=memory,
            tracing=tracing,
        )
        self._running: list[asyncio.Task[None]] = []

    async def connect(self, hello: ev.Hello | None = None) -> FakeConnection:
        """A session is running and has said `Ready`."""
        connection = FakeConnection(hello)
        task = asyncio.create_task(self.sessions.serve(connection))
        self._running.append(task)
        await settle()
        assert connection.of(ev.Ready) or task.done()
        if task.done():
            task.result()
        return connection

    async def hang_up(self, connection: FakeConnection) -> None:
        connection.put(ev.Close())
        await settle()
        assert isinstance(connection.sent[-1].event, ev.Closed)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def finish(self) -> None:
        """Ends what still runs and checks that every part was let go."""
        await self.sessions.drain(0.0)
        await asyncio.gather(*self._running, return_exceptions=True)
        await settle()
        assert not self.vad.open_streams, "a detector stream was left open"
        assert self.asr.released == self.asr.streams, "a recogniser stream was left open"
        assert self.llm.closed == self.llm.streams, "an LLM stream was left open"
        assert self.tts.released == self.tts.streams, "a synthesis was left running"
        assert self.count("parley_sessions_active") == 0
        loop = asyncio.get_running_loop()
        timers = [t for t in loop._scheduled if not t.cancelled() and t.when() > loop.time() + 1]  # type: ignore[attr-defined]
        assert not timers, f"timers keep a session that has ended: {timers}"


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    it = World(**settings)
    yield it
    await it.finish()


def virtual(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Runs an async test function in virtual time and fails it when a task is left behind."""

    def run() -> None:
        async def main() -> None:
            await test()

        run_virtual(main())

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


async def say(client: FakeConnection, ms: float = 600, pause_ms: float = 800) -> None:
    """The user speaks and falls silent."""
    await client.play(speech(ms), silence(pause_ms))


__all__ = ["World", "ev", "say", "silence", "speech", "virtual", "world"]
