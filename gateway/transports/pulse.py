"""The pulse of a stream: pings where nothing moves, and who has gone without a word.

A network can lose a peer silently, and middleboxes cut streams that look idle, mostly after 60 s. So a
client towards which, or from which, nothing has moved for `ping_s` gets a ping of the protocol's own.
All streams of a server share one timer, and what a message costs is one attribute set.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

_SWEEPS = 4
"""Looks at all streams per `ping_s`: a ping is late by at most that part of it."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks the other side for a `Pong`."""

    nonce: int
    """Chosen by the asker, 0 to 2⁶⁴ − 1."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `Ping`."""

    nonce: int
    """That of the ping."""


class Stream(Protocol):
    """What a pulse needs of a connection."""

    heard: bool
    """Set by the connection when a message came; cleared here."""
    spoken: bool
    """Set by the connection when a message left; cleared here."""
    answers: bool
    """The client has shown that it knows pings: its silence means that it is gone."""

    def ping(self, ping: Ping) -> None:
        """Send it; never blocks."""
        ...

    def give_up(self, why: str) -> None:
        """Nothing has come for `lost_s`: the client is gone."""
        ...


@dataclass(slots=True)
class _Idle:
    heard_at: float
    spoken_at: float
    pinged: bool = False
    """Since something was heard."""
    nonce: int = 0


class Pulse:
    """One per server, on its event loop."""

    def __init__(self, *, ping_s: float, lost_s: float) -> None:
        """ping_s: pause after which a ping is due; lost_s: silence after which a client that answers pings is gone."""
        self._ping_s, self._lost_s = ping_s, lost_s
        self._streams: dict[Stream, _Idle] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Stream) -> None:
        """Watch it until `discard`."""
        loop = asyncio.get_running_loop()
        self._streams[stream] = _Idle(loop.time(), loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._ping_s / _SWEEPS, self._sweep)

    def discard(self, stream: Stream) -> None:
        """Harmless when it is not watched."""
        self._streams.pop(stream, None)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._ping_s / _SWEEPS, self._sweep)
        now = loop.time()
        for stream, idle in list(self._streams.items()):
            self._look_at(stream, idle, now)

    def _look_at(self, stream: Stream, idle: _Idle, now: float) -> None:
        if stream.heard:
            stream.heard, idle.heard_at, idle.pinged = False, now, False
        if stream.spoken:
            stream.spoken, idle.spoken_at = False, now
        silent_s = now - idle.heard_at
        if stream.answers and idle.pinged and silent_s >= self._lost_s:
            self.discard(stream)
            stream.give_up(f"nothing came from the client for {silent_s:.0f} s, no answer to a ping either")
        elif now - idle.spoken_at >= self._ping_s or (silent_s >= self._ping_s and not idle.pinged):
            idle.nonce += 1
            idle.spoken_at, idle.pinged = now, True
            stream.ping(Ping(idle.nonce))
