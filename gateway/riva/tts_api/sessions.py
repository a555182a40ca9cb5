"""Sessions: a voice that is held, at most one utterance at a time, and an end that is always reached."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.riva.tts_api.errors import CODE, Refused, unknown_session
from gateway.riva.tts_api.ports import Held, Want
from gateway.riva.tts_api.utterance import Utterance

_HANDOVER_S = 0.5
"""How long the next utterance waits for the end of one whose call was cancelled a moment ago."""
_MOST_ID_CHARS = 128


@dataclass(frozen=True, slots=True)
class Style:
    name: str = ""
    speed: float = 0.0
    """0: the model's normal."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How an utterance is spoken."""

    model: str
    """That the voice and the style are of."""
    voice: str
    language: str
    style: Style


class Session:
    """Made by `Sessions`."""

    def __init__(self, session_id: str, want: Want, held: Held, style: Style, lead_s: float | None) -> None:
        """lead_s: how far ahead of real time frames leave; None: as fast as they are taken."""
        self.id = session_id
        self.want = want
        self.held = held
        self.style = style
        self.lead_s = lead_s
        self.utterances = 0
        self.current: Utterance | None = None
        self.last: Utterance | None = None
        """The current or the one before."""
        self.over = False
        self._touched = asyncio.get_running_loop().time()
        self._free = asyncio.Event()
        self._free.set()

    @property
    def touched(self) -> float:
        """Loop time of the last thing that happened in it."""
        return max(self._touched, self.last.moved if self.last is not None else self._touched)

    def touch(self) -> None:
        self._touched = asyncio.get_running_loop().time()

    async def begin(self, make: Callable[[int], Utterance]) -> Utterance:
        """The next utterance, which gets the next number. Raises Refused while another one is open."""
        try:
            async with asyncio.timeout(_HANDOVER_S):
                while not self._free.is_set():  # of several that waited, the first one has taken it again
                    await self._free.wait()
        except TimeoutError:
            raise Refused(
                f"session {self.id!r} is speaking: end that call first, or STOP it", CODE.FAILED_PRECONDITION
            ) from None
        if self.over:
            raise unknown_session(self.id)
        self._free.clear()
        self.touch()
        self.utterances += 1
        self.current = self.last = make(self.utterances)
        return self.current

    def end_utterance(self, utterance: Utterance) -> None:
        """It is over, and the next one may begin."""
        if self.current is utterance:
            self.current = None
            self._free.set()
            self.touch()

    async def renew(self, *, deadline_s: float | None = None) -> Held:
        """What speaks from now on: see `Source.renew`."""
        before = self.held
        held = await before.source.renew(deadline_s=deadline_s)
        if self.held is before:
            self.held = held
        return self.held

    def exchange(self, held: Held) -> None:
        """Go on with another hold; the one before is given back. After the end, both are."""
        before, self.held = self.held, held
        before.source.release()
        if self.over:
            held.source.release()

    def end(self, error: Exception | None = None) -> None:
        """Gives the model back. error: what the open utterance's call is told; without, it ends in good order."""
        if self.over:
            return
        self.over = True
        if self.current is not None:
            if error is not None:
                self.current.fail(error)
            else:
                self.current.stop()
        self._free.set()
        self.held.source.release()


class Sessions:
    """Every session of the service, at most `limit`; one in which nothing happens for `idle_s` is ended."""

    def __init__(self, *, limit: int, idle_s: float) -> None:
        self.limit, self.idle_s = limit, idle_s
        self._sessions: dict[str, Session | None] = {}
        """None: being started."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        return [session for session in self._sessions.values() if session is not None]

    def get(self, session_id: str) -> Session:
        """Raises Refused (NOT_FOUND)."""
        session = self._sessions.get(session_id)
        if session is None:
            raise unknown_session(session_id)
        return session

    async def start(self, session_id: str, make: Callable[[str], Awaitable[Session]]) -> Session:
        """The place is taken before `make` is awaited: of two starts at once with one id, or at the limit, one is
        refused. Raises Refused, and what `make` raises."""
        session_id = session_id or secrets.token_hex(8)
        if len(session_id) > _MOST_ID_CHARS:
            raise Refused(f"session_id is longer than {_MOST_ID_CHARS} characters: choose a shorter one")
        if session_id in self._sessions:
            raise Refused(
                f"there is a session {session_id!r} already: end it, or choose another id",
                CODE.ALREADY_EXISTS,
            )
        if len(self._sessions) >= self.limit:
            raise Refused(
                f"all {self.limit} sessions are taken: end one, or try again later", CODE.RESOURCE_EXHAUSTED
            )
        self._sessions[session_id] = None
        try:
            session = await make(session_id)
        except BaseException:
            del self._sessions[session_id]
            raise
        self._sessions[session_id] = session
        self._watch(session)
        return session

    def end(self, session_id: str, error: Exception | None = None) -> Session:
        """Raises Refused (NOT_FOUND)."""
        session = self.get(session_id)
        del self._sessions[session_id]
        self._timers.pop(session_id).cancel()
        session.end(error)
        return session

    def close(self) -> None:
        error = Refused("the speech service is stopping: try again in a moment", CODE.UNAVAILABLE)
        for session in self.all():
            self.end(session.id, error)

    def _watch(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        at = session.touched + self.idle_s
        if at <= loop.time():
            self.end(
                session.id,
                Refused(
                    f"nothing happened in session {session.id!r} for {self.idle_s:.0f} seconds: start another",
                    CODE.DEADLINE_EXCEEDED,
                ),
            )
            return
        self._timers[session.id] = loop.call_at(at, self._watch, session)
