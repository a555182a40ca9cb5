"""A channel that is dialled anew when the other side has vanished without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import grpc.aio

from gateway.http2.client import StreamChannel

log = logging.getLogger(__name__)
T = TypeVar("T")
Channel = grpc.aio.Channel | StreamChannel


class Line(Generic[T]):
    """One address, called by all sessions of the process.

    When a machine dies, or something on the way forgets a connection, calls wait for answers that never
    come, and so do all later ones: gRPC's keepalive takes 40 s and more to notice. So whoever waited in
    vain says so; where nobody else has heard anything meanwhile either, the next calls get a new
    connection. Those in progress keep theirs.
    """

    def __init__(
        self,
        address: str,
        dial: Callable[[], Channel],
        stubs: Callable[[Any], T],
        *,
        on_silent: Callable[[], None] = lambda: None,
        version: Callable[[], int] | None = None,
    ) -> None:
        """address: as the log names it. stubs: what is called on a channel. on_silent: called when it dials anew
        since nothing comes. version: of what connections are made with; when it changes, the next calls get a new
        one."""
        self._address, self._dial, self._stubs, self._on_silent = address, dial, stubs, on_silent
        self._version, self._dialled = version, 0
        self._closing: set[asyncio.Task[None]] = set()
        self._retired: set[Connection[T]] = set()
        self._now = self._connection()

    @contextmanager
    def use(self) -> Iterator[Connection[T]]:
        """For the length of one call."""
        if self._version is not None and self._version() != self._dialled:
            self._replace()
        one = self._now
        one.users += 1
        try:
            yield one
        finally:
            one.users -= 1
            self.let_go(one)

    async def close(self) -> None:
        """Calls in progress are cancelled."""
        for one in (self._now, *self._retired):
            await one.channel.close()
        while self._closing:
            await asyncio.wait(set(self._closing))

    def redial(self, old: Connection[T]) -> None:
        if old is not self._now:
            return
        log.warning("nothing comes from %s any more: the next calls get a new connection", self._address)
        old.silent = True
        self._replace()
        self._on_silent()

    def _replace(self) -> None:
        old, self._now = self._now, self._connection()
        self._retired.add(old)
        self.let_go(old)

    def _connection(self) -> Connection[T]:
        if self._version is not None:
            self._dialled = self._version()
        channel = self._dial()
        return Connection(self, channel, self._stubs(channel))

    def let_go(self, one: Connection[T]) -> None:
        """Closes what is retired and not needed any more."""
        if one in self._retired and not one.users and (one.silent or not one.streams):
            self._retired.discard(one)
            task = asyncio.create_task(one.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class Connection(Generic[T]):
    """What a call needs of its line."""

    __slots__ = ("_heard_s", "_line", "channel", "silent", "streams", "stubs", "users")

    def __init__(self, line: Line[T], channel: Channel, stubs: T) -> None:
        self._line = line
        self._heard_s = float("-inf")
        self.channel, self.stubs = channel, stubs
        self.users = 0
        self.streams = 0
        """Calls that go on without a user; they end with a connection that was found silent."""
        self.silent = False

    def heard(self) -> None:
        """Something came."""
        self._heard_s = asyncio.get_running_loop().time()

    def keep_for(self, call: Any) -> None:
        """The connection is closed after the call, unless it was found silent."""
        self.streams += 1

        def over(_: Any) -> None:
            self.streams -= 1
            self._line.let_go(self)

        call.add_done_callback(over)

    def silent_since(self, loop_s: float) -> None:
        """A call has waited in vain for an answer since then."""
        if self._heard_s < loop_s:
            self._line.redial(self)
