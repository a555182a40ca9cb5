"""All sessions of the process: who may start one, replacement, the list, the drain."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, NoReturn, Protocol
from uuid import uuid4

from gateway.listen.asr import Recognizer
from gateway.listen.vad import Vad
from gateway.session import events as ev
from gateway.session.admission import BEAT_S, FEW, Admission
from gateway.session.core import REPLACED, Parts
from gateway.session.memory import Memory
from gateway.session.remembered import Remembered
from gateway.session.session import Session
from gateway.settings import Settings
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Synthesizer
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.slow_turns import SlowTurns
from gateway.think.llm import LanguageModel

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_FLUSH_S = 2.0
"""Longest wait for a client to take the last events."""


class Refused(Exception):
    """No session was started."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code, self.message, self.retryable = code, message, retryable


class Registry(Protocol):
    """Who else must know which sessions are open: the other processes behind the same address."""

    def opened(self, session_id: str, serial: int) -> None:
        """serial: tells sessions of one id apart; grows. Never blocks."""
        ...

    def closed(self, session_id: str, serial: int) -> None: ...


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
        *,
        registry: Registry | None = None,
        memory: Memory | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """memory: how sessions go on elsewhere; None: they do not."""
        self._settings, self._metrics, self._vad = settings, metrics, vad
        ticker = Ticker(settings.playout.tick_ms)
        slow_turns = SlowTurns(settings.telemetry.slow_turn_ms, metrics.slow_turn)
        self._parts = Parts(settings, recognizer, llm, synthesizer, vad, metrics, ticker, slow_turns, tracing)
        self._live: dict[str, tuple[Session, asyncio.Task[None]]] = {}
        self._registry, self._memory = registry, memory
        self._serials: dict[Session, int] = {}
        self._next_serial = itertools.count(1)
        self.draining = False
        """No new session is taken any more."""
        self._drain_until: float | None = None
        limits = settings.session
        self._admission = Admission(
            backlog_ms=limits.admit_backlog_ms, lag_ms=limits.admit_lag_ms, busy=limits.admit_busy
        )
        metrics.watch_admission(
            lambda: self.admitting, lambda: self._admission.backlog_ms, max_sessions=limits.max_sessions
        )

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

    @property
    def admitting(self) -> bool:
        """Whether a new session would be taken."""
        return not self.draining and not self._is_full and (self._admission.open or len(self._live) < FEW)

    def beat(self, lag_s: float, busy_s: float) -> None:
        """For the event loop's watch, every `admission.BEAT_S`: how late, and how long it was busy."""
        busy = min(1.0, busy_s / (BEAT_S + lag_s))
        self._admission.beat(backlog_ms=self._vad.backlog_ms, lag_ms=lag_s * 1000, busy=busy)

    def replace(self, session_id: str, serial: int) -> None:
        """The session was opened again in another process: this one's ends, if it is still that one."""
        live = self._live.get(session_id)
        if live is not None and self._serials.get(live[0]) == serial:
            live[0].end(REPLACED)

    async def _start(self, connection: ev.Connection) -> asyncio.Task[None]:
        hello = connection.hello
        token = self._memory.open(hello) if self._memory is not None else None
        known = token if isinstance(token, Remembered) else None
        session_id = known.session_id if known is not None else hello.session_id or uuid4().hex
        live_id = _live_id(session_id, hello.caller)
        old = self._live.get(live_id)
        self._refuse_or_pass(replaces=old is not None)
        session = Session(
            session_id,
            connection,
            self._parts,
            memory=self._memory,
            token=token,
            predecessor=old[0] if old is not None and known is not None else None,
        )
        task = asyncio.create_task(
            self._run(session, connection, live_id), name=f"session {session_id}", context=session.context
        )
        # Replaced in the table first: of two newcomers at once, the later one wins and ends the other.
        self._live[live_id] = (session, task)
        if old is not None:
            old[0].end(REPLACED)
        self._metrics.session_started()
        if self._registry is not None:
            self._serials[session] = serial = next(self._next_serial)
            self._registry.opened(live_id, serial)
        return task

    @property
    def _is_full(self) -> bool:
        return len(self._live) >= self._settings.session.max_sessions

    def _refuse_or_pass(self, *, replaces: bool) -> None:
        """Raises Refused. A session that takes another's place adds nothing to the load."""
        if self.draining:
            self._refuse("shutting_down", "the server is shutting down: connect again")
        if replaces:
            return
        if self._is_full:
            most = self._settings.session.max_sessions
            self._refuse("full", f"all {most} sessions are taken: try later")
        if len(self._live) >= FEW and (why := self._admission.admit()):
            self._refuse("overloaded", f"{why}: try again in a moment")

    def _refuse(self, code: str, message: str) -> NoReturn:
        self._metrics.session_refused(code)
        raise Refused(code, message, retryable=True)

    async def _run(self, session: Session, connection: ev.Connection, live_id: str) -> None:
        closed = ev.Closed("internal")
        try:
            closed = await session.run()
            async with asyncio.timeout(_FLUSH_S):
                await connection.drained()
        except TimeoutError:
            pass  # a client that takes nothing any more
        finally:
            if self._live.get(live_id, (None,))[0] is session:
                del self._live[live_id]
            serial = self._serials.pop(session, 0)
            if self._registry is not None:
                self._registry.closed(live_id, serial)
            self._metrics.session_ended(closed.reason)
            log.info("session %s closed: %s (%s)", session.session_id, closed.reason, closed.message)

    def snapshot(self) -> list[dict[str, object]]:
        """For /v1/sessions."""
        return [session.describe() for session, _ in self._live.values()]

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._live)

    async def drain(self, grace_s: float) -> None:
        """Refuse new sessions, let replies end, then close all; returns when none is left.

        Told again, the grace of the first time counts, unless the new one ends earlier.
        """
        self.draining = True
        now = asyncio.get_running_loop().time()
        until = self._drain_until = min(now + grace_s, self._drain_until or now + grace_s)
        goodbye = ev.Closed("shutdown", "the server is shutting down: connect again", retryable=True)
        running = [task for _, task in self._live.values()]
        for session, _ in list(self._live.values()):
            session.drain(goodbye)
        if running:
            await asyncio.wait(running, timeout=max(0.0, until - now))
        for session, _ in list(self._live.values()):
            session.end(goodbye)
        if running:
            await asyncio.wait(running, timeout=_FLUSH_S + 1)


def _live_id(session_id: str, caller: str) -> str:
    """Ids are the clients' own choice: nobody ends another's session by naming its id."""
    return f"{caller} {session_id}" if caller else session_id
