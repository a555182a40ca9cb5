"""How a session goes on elsewhere: its history waits with its client, sealed, or in a store that replicas share.

One `Memory` a process, one `Keeper` a session whose client keeps tokens; sessions of other clients cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from gateway.session import events as ev
from gateway.session.core import REPLACED, Core
from gateway.session.remembered import Remembered, Unusable, opened, sealed
from gateway.session.sealing import Seal
from gateway.settings import ResumeSettings

log = logging.getLogger(__name__)

_SETTLE_S = 0.05
"""What changes together is sealed once."""
_HANDOVER_S = 1.0
"""Longest wait for a live session of the same id to end and to say how far it came."""


class StoreError(Exception):
    """The store did not answer as it should; `str()` is fit for a log."""


class Store(Protocol):
    """Histories that replicas share, by the caller's and the session's name. Every method raises StoreError."""

    async def claim(self, caller: str, session_id: str, above: int) -> tuple[int, bytes | None]:
        """(a new epoch, greater than any before and than `above`; what lies there). Whoever wrote there before
        can no more."""
        ...

    async def write(self, caller: str, session_id: str, epoch: int, sealed: bytes, ttl_s: float) -> bool:
        """False, and nothing is written, when another has claimed the session since."""
        ...

    async def forget(self, caller: str, session_id: str, epoch: int) -> None:
        """Unless another has claimed it since."""
        ...


class Predecessor(Protocol):
    """A live session of the same id and caller, which was told to end."""

    over: asyncio.Event

    def remember(self) -> Remembered: ...


class Memory:
    """Of the process."""

    def __init__(
        self,
        settings: ResumeSettings,
        sealing_key: str,
        *,
        longest_s: float,
        store: Store | None = None,
        count: Callable[[str], None] = lambda outcome: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """longest_s: of a session; a ticket must outlive it. count: gets the outcome of each try to resume,
        and `store_failed`. wall: UNIX time, s, which replicas share as the loop's time is not."""
        self.settings, self.store, self.count, self.wall = settings, store, count, wall
        self.longest_s = longest_s
        self.seal = Seal(sealing_key, b"parley session token")
        self.seal_stored = Seal(sealing_key, b"parley stored session")

    def open(self, hello: ev.Hello) -> Remembered | Unusable | None:
        """What the client's token says; None where there is none."""
        if not hello.resume:
            return None
        try:
            return opened(hello.resume, self.seal, caller=hello.caller, now=self.wall())
        except Unusable as error:
            return error


class Keeper:
    """Of one session; made with it."""

    def __init__(self, memory: Memory, core: Core, dump: Callable[[int, int], Remembered]) -> None:
        """dump: the session as it is now, for an epoch and a serial number."""
        self._memory, self._core, self._dump = memory, core, dump
        self._epoch, self._serial = 1, 0
        self._claimed = False
        self._has_ticket = False
        self._store_failed = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._again = False
        self._unsaid: list[ev.ServerEvent] | None = []
        """What is to be told after `ready`; None once that was sent."""

    def begin(self) -> None:
        """`ready` was sent."""
        unsaid, self._unsaid = self._unsaid or [], None
        for event in unsaid:
            self._core.send(event)
        self.changed()

    def _say(self, event: ev.ServerEvent) -> None:
        if self._unsaid is None:
            self._core.send(event)
        else:
            self._unsaid.append(event)

    def now(self) -> Remembered:
        return self._dump(self._epoch, self._serial)

    async def recall(
        self, token: Remembered | Unusable | None, predecessor: Predecessor | None
    ) -> Remembered | None:
        """The latest of what the token, the store and a live session know. None: a fresh session, and a warning where
        the client expected none."""
        if token is None:
            return None
        if isinstance(token, Unusable):
            self._failed(token.outcome, str(token))
            return None
        found = [] if token.ticket else [token]
        if predecessor is not None:
            try:
                async with asyncio.timeout(_HANDOVER_S):
                    await predecessor.over.wait()
            except TimeoutError:
                pass  # as far as it came by now
            if (live := predecessor.remember()).caller == token.caller:  # ids are the clients' own choice
                found.append(live)
        why = "what it stands for is not kept any more"
        try:
            stored = await self._claim(token)
        except StoreError as error:
            self._store_has_failed(error)
            why = "the store of histories does not answer"
            stored = None
        if stored is not None:
            found.append(stored)
        if not found:
            self._failed("lost", why)
            return None
        latest = max(found, key=lambda one: one.order)
        self._epoch = max(self._epoch, latest.epoch + 1)
        self._memory.count("resumed")
        return latest

    def _failed(self, outcome: str, why: str) -> None:
        self._memory.count(outcome)
        self._say(ev.Warning("not_resumed", f"the session was not resumed, as {why}: this is a fresh one"))

    async def _claim(self, token: Remembered | None) -> Remembered | None:
        """Raises StoreError."""
        memory, core = self._memory, self._core
        if memory.store is None:
            return None
        caller = core.hello.caller
        self._epoch, found = await memory.store.claim(
            caller, core.session_id, max(self._epoch - 1, token.epoch if token else 0)
        )
        self._claimed = True
        if found is None or token is None:
            return None
        try:
            stored = opened(found, memory.seal_stored, caller=caller, now=memory.wall())
        except Unusable as error:
            log.warning("session %s: the stored history is of no use: %s", core.session_id, error)
            return None
        if stored.session_id != core.session_id:
            log.warning("session %s: the store has another session's history in its place", core.session_id)
            return None
        return stored

    # ---- keeping -----------------------------------------------------------------------------------

    def changed(self, at_once: bool = False) -> None:
        """What is to be remembered is another: soon it will be. at_once: nothing of a reply waits for it."""
        self._serial += 1
        if self._core.ended.done():
            return  # `close` keeps it
        if at_once and self._unsaid is None:
            if self._timer is not None:
                self._timer.cancel()
            self._settle()
        elif self._timer is None:
            self._timer = self._core.later(_SETTLE_S, self._settle)

    def _settle(self) -> None:
        self._timer = None
        if self._memory.store is None:
            self._hand_out(self.now())
        elif self._writing is None or self._writing.done():
            self._writing = self._core.spawn(self._write())
        else:
            self._again = True

    async def _write(self) -> None:
        while True:
            self._again = False
            await self._keep(self.now())
            if not self._again:
                return

    async def _keep(self, what: Remembered) -> None:
        """In the store; with the client where that fails."""
        memory, core = self._memory, self._core
        assert memory.store is not None
        until = memory.wall() + memory.settings.ttl_s
        body = sealed(what, memory.seal_stored, until=until, max_bytes=memory.settings.max_bytes)
        try:
            if not self._claimed:
                await self._claim(None)
            ours = await memory.store.write(
                what.caller, what.session_id, self._epoch, body, memory.settings.ttl_s
            )
        except StoreError as error:
            self._store_has_failed(error)
            self._hand_out(what)
            return
        self._store_failed = False
        if not ours:
            core.end(REPLACED)
        elif not self._has_ticket:
            self._hand_out(replace(what, ticket=True))

    def _hand_out(self, what: Remembered) -> None:
        """To the client."""
        settings = self._memory.settings
        self._has_ticket = what.ticket
        good_for_s = settings.ttl_s + (self._memory.longest_s if what.ticket else 0.0)
        token = sealed(
            what, self._memory.seal, until=self._memory.wall() + good_for_s, max_bytes=settings.max_bytes
        )
        self._core.send(ev.ResumeToken(token, int(good_for_s)))

    def _store_has_failed(self, error: StoreError) -> None:
        self._memory.count("store_failed")
        if not self._store_failed:
            self._store_failed = True
            log.warning("session %s: %s: its history waits with its client", self._core.session_id, error)
            self._say(
                ev.Warning("history_with_client", "the store of histories does not answer: keep the token")
            )

    async def close(self, closed: ev.Closed, *, wanted: bool) -> None:
        """The session is over and says no more of its own. wanted: by its user, who will not come back."""
        if self._timer is not None:
            self._timer.cancel()
        store = self._memory.store
        if closed.reason == REPLACED.reason:
            return  # what is kept now is its successor's
        self._serial += 1
        if wanted:
            if store is not None and self._claimed:
                try:
                    await store.forget(self._core.hello.caller, self._core.session_id, self._epoch)
                except StoreError as error:
                    log.info("session %s: %s: it expires by itself", self._core.session_id, error)
        elif store is None:
            self._hand_out(self.now())
        else:
            await self._keep(self.now())
