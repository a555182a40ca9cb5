"""The bounded queue between a session that never waits and a wire that sometimes does.

One consumer takes events with `next()`, or with `take()` and `news()`. What happens when the wire is
slow: reply audio beyond `limit_ms` is dropped, oldest first, and counted; other events are few and must
not be lost, so more than `limit_events` of them, or an event that the wire has not taken for `stall_s`,
fails the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.session.events import Flushed, ReplyAudio, ServerEvent, Warning
from gateway.transports.pulse import Ping, Pong

AUDIO_DROPPED = "audio_dropped"
SLOW_CLIENT = "slow_client"


Outgoing = ServerEvent | Ping | Pong


class Outbox:
    """Events on their way to one client, in order. Everything here belongs to the event loop's thread."""

    def __init__(
        self,
        *,
        rate: int,
        limit_ms: int = 2_000,
        limit_events: int = 1_000,
        stall_s: float = 30.0,
        on_drop: Callable[[str, int], None] = lambda reason, frames: None,
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`rate` (Hz) turns PCM16 bytes into ms. `on_drop(reason, frames)` counts what is thrown away:
        `slow_client` for frames beyond the limit, `flushed` for frames that a flush overtook.
        `on_failed()` is called once, when the client is given up."""
        self._bytes_per_ms = rate * 2 / 1000
        self._limit_bytes = int(limit_ms * self._bytes_per_ms)
        self._limit_events = limit_events
        self._stall_s = stall_s
        self._on_drop = on_drop
        self._on_failed = on_failed
        self._queue: deque[Outgoing] = deque()
        self._audio_bytes = 0
        self._audio_frames = 0
        self._in_flight_bytes = 0
        self._taken_at: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._waiter: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._closed = False
        self._warned = False
        self.failure = ""
        """Why the client was given up; empty while it was not."""

    def put(self, event: Outgoing) -> None:
        """Queue an event. Never blocks, never raises; after `close()` or a failure it does nothing."""
        if self._closed or self.failure:
            return
        if type(event) is ReplyAudio:
            self._queue.append(event)
            self._audio_bytes += len(event.pcm)
            self._audio_frames += 1
            if self._audio_bytes > self._limit_bytes:
                self._shed()
        else:
            if isinstance(event, Flushed):
                self._flush(event.generation)
            self._queue.append(event)
            if len(self._queue) - self._audio_frames > self._limit_events:
                self.fail(f"the client has not taken {self._limit_events} events")
                return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next(self) -> Outgoing | None:
        """The next event, when there is one; None when the queue was closed and is empty, or has failed.

        Asking for the next one says that the last one was taken by the wire. One consumer only.
        """
        while (event := self.take()) is None and not self.over:
            await self.news()
        return event

    def take(self) -> Outgoing | None:
        """As `next`, but at once: None may also say that there is none yet. A coroutine for every event would
        cost as much as all the rest here."""
        self._in_flight_bytes = 0
        if not self._queue:
            self._taken_at = None
            if self._idle:
                self._release_idle()
            return None
        event = self._queue.popleft()
        if type(event) is ReplyAudio:
            size = len(event.pcm)
            self._in_flight_bytes = size
            self._audio_bytes -= size
            self._audio_frames -= 1
        self._taken_at = self._now()
        if self._watch is None:
            self._watch = self._loop.call_later(self._stall_s, self._check_stall)
        return event

    @property
    def idle(self) -> bool:
        """Nothing is queued, the wire has taken everything, and more would be taken."""
        return not self._queue and self._taken_at is None and not self._closed and not self.failure

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return bool(self.failure) or (self._closed and not self._queue)

    def news(self) -> asyncio.Future[None]:
        """Done once there is an event, or the queue is over. For the consumer, after `take` gave none."""
        self._warned = False
        self._waiter = self._loop.create_future()
        return self._waiter

    def backlog_ms(self) -> int:
        """Reply audio that the wire has not taken yet, ms."""
        return int((self._audio_bytes + self._in_flight_bytes) / self._bytes_per_ms)

    async def drained(self) -> None:
        """Returns when the wire has taken everything queued, or the client was given up."""
        if self.failure or (not self._queue and self._taken_at is None):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(done)
        await done

    def close(self) -> None:
        """Nothing more will come; what is queued still goes out."""
        self._closed = True
        self._wake()

    def fail(self, why: str) -> None:
        """Give the client up: drop everything, release everybody. The first reason stays."""
        if self.failure:
            return
        self.failure = why or "the client is gone"
        self._queue.clear()
        self._audio_bytes = self._audio_frames = self._in_flight_bytes = 0
        self._release_idle()
        self._wake()
        self.dispose()
        self._on_failed()

    def dispose(self) -> None:
        """Stop the timer. The consumer calls it when it ends."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._release_idle()

    def _flush(self, generation: int) -> None:
        if not self._audio_frames:
            return
        kept = [e for e in self._queue if not (isinstance(e, ReplyAudio) and e.generation <= generation)]
        dropped = len(self._queue) - len(kept)
        if dropped:
            self._queue = deque(kept)
            audio = [e for e in kept if isinstance(e, ReplyAudio)]
            self._audio_bytes = sum(len(e.pcm) for e in audio)
            self._audio_frames = len(audio)
            self._on_drop("flushed", dropped)

    def _shed(self) -> None:
        dropped = 0
        while self._audio_bytes > self._limit_bytes and self._audio_frames > 1:
            at, oldest = next((i, e) for i, e in enumerate(self._queue) if isinstance(e, ReplyAudio))
            del self._queue[at]
            self._audio_bytes -= len(oldest.pcm)
            self._audio_frames -= 1
            dropped += 1
        if not dropped:
            return
        self._on_drop(SLOW_CLIENT, dropped)
        if not self._warned:
            self._warned = True
            self.put(
                Warning(AUDIO_DROPPED, "you read slower than real time: the oldest reply audio was dropped")
            )

    def _check_stall(self) -> None:
        self._watch = None
        if self._taken_at is None:
            return
        left = self._taken_at + self._stall_s - self._now()
        if left <= 0:
            self.fail(f"the client has taken nothing for {self._stall_s:g} s")
        else:
            self._watch = self._loop.call_later(left, self._check_stall)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _release_idle(self) -> None:
        idle, self._idle = self._idle, []
        for done in idle:
            if not done.done():
                done.set_result(None)
