"""All sessions of the process: admission, replacement, the list, the drain."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

from gateway.listen.asr import Recognizer
from gateway.listen.vad import Vad
from gateway.session import events as ev
from gateway.session.core import Parts
from gateway.session.session import Session
from gateway.settings import Settings
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Synthesizer
from gateway.telemetry.metrics import Metrics
from gateway.think.llm import LanguageModel

log = logging.getLogger(__name__)

_FLUSH_S = 2.0
"""Longest wait for a client to take the last events."""


class Refused(Exception):
    """No session was started."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


class Sessions:
    """One per process, on one event loop."""

    def __init__(
        self,
        settings: Settings,
        recognizer: Recognizer,
        llm: LanguageModel,
        synthesizer: Synthesizer,
        vad: Vad,
        metrics: Metrics,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        ticker = Ticker(settings.playout.tick_ms)
        self._parts = Parts(settings, recognizer, llm, synthesizer, vad, metrics, ticker)
        self._live: dict[str, tuple[Session, asyncio.Task[None]]] = {}
        self._draining = False

    async def serve(self, connection: ev.Connection) -> None:
        """Run one session to its end, in a task of the server's own.

        A live session of the same id is replaced. Cancelling the caller tells the session that its
        peer is gone (a `Closed` as the cancel's message says why); it cleans up by itself.
        Raises Refused before anything was sent.
        """
        task = await self._start(connection)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as cancel:
            said = cancel.args[0] if cancel.args else None
            why = said if isinstance(said, ev.Closed) else ev.Closed("client", "the connection was lost")
            for session, running in self._live.values():
                if running is task:
                    session.end(why)
            raise

    async def _start(self, connection: ev.Connection) -> asyncio.Task[None]:
        session_id = connection.hello.session_id or uuid4().hex
        old = self._live.get(session_id)
        if self._draining:
            raise Refused("shutting_down", "the server is shutting down: connect again", retryable=True)
        if old is None and len(self._live) >= self._settings.session.max_sessions:
            self._metrics.dropped("session_refused")
            raise Refused(
                "full",
                f"all {self._settings.session.max_sessions} sessions are taken: try later",
                retryable=True,
            )
        session = Session(session_id, connection, self._parts)
        task = asyncio.create_task(self._run(session, connection), name=f"session {session_id}")
        # Replaced in the table first: of two newcomers at once, the later one wins and ends the other.
        self._live[session_id] = (session, task)
        if old is not None:
            old[0].end(ev.Closed("replaced", "the session was opened again elsewhere"))
        self._metrics.session_started()
        return task

    async def _run(self, session: Session, connection: ev.Connection) -> None:
        closed = ev.Closed("internal")
        try:
            closed = await session.run()
            async with asyncio.timeout(_FLUSH_S):
                await connection.drained()
        except TimeoutError:
            pass  # a client that takes nothing any more
        finally:
            if self._live.get(session.session_id, (None,))[0] is session:
                del self._live[session.session_id]
            self._metrics.session_ended(closed.reason)
            log.info("session %s closed: %s (%s)", session.session_id, closed.reason, closed.message)

    def snapshot(self) -> list[dict[str, object]]:
        """For /v1/sessions."""
        return [session.describe() for session, _ in self._live.values()]

    async def drain(self, grace_s: float) -> None:
        """Refuse new sessions, let replies end, then close all; returns when none is left."""
        self._draining = True
        goodbye = ev.Closed("shutdown", "the server is shutting down: connect again", retryable=True)
        running = [task for _, task in self._live.values()]
        for session, _ in list(self._live.values()):
            session.drain(goodbye)
        if running:
            await asyncio.wait(running, timeout=grace_s)
        for session, _ in list(self._live.values()):
            session.end(goodbye)
        if running:
            await asyncio.wait(running, timeout=_FLUSH_S + 1)
