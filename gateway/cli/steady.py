"""A client whose line may break: it connects again by itself, with the history of its session.

Used as a `VoiceClient` is. When the server closes it with a reason to connect again, goes away, or refuses
for the moment, it dials anew, shows its newest token, and goes on; what was said meanwhile is sent then.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import TracebackType

import grpc

from gateway.cli.client import Arrival, CallFailed, VoiceClient
from gateway.cli.player import Player
from gateway.session import events as ev

KEPT_S = 8.0
"""Of the microphone's audio while there is no line; then the oldest is dropped. A server takes 10 s at once."""
_HELD = 32
"""Other events, likewise."""
_FIRST_S, _LONGEST_S = 0.1, 2.0
"""Pauses between tries: random, up to twice the one before."""
_LASTS_S = 5.0
"""A line that was there for so long was a good one. Pauses go on growing over shorter ones: a server that takes a session
and ends it at once is not dialled ten times a second."""
_TRY_S = 3.0
"""For one try: a server that does not answer a start by then is not the one to wait for."""
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_NOT_KEPT = (ev.Commit, ev.Cancel, ev.Truncate, ev.ToolResult, ev.TextIn)
"""What made sense only on the line that was lost; and text, which is sent again while it is unanswered."""

Make = Callable[[ev.Hello, float], VoiceClient]
"""(handshake, longest wait for the answer, s) -> a client that is not connected yet."""


class SteadyClient:
    """`async with SteadyClient(make, hello) as client:`, then `async for arrival in client`.

    Each connection after the first yields its `Ready`; a `Closed` that is followed by another connection is not
    shown. Generations go on growing over all of them.
    """

    def __init__(
        self,
        make: Make,
        hello: ev.Hello,
        *,
        reconnect: bool = True,
        give_up_s: float = 30.0,
        connect_s: float = 10.0,
    ) -> None:
        """make: a client for each connection. reconnect: False is a plain client. give_up_s: without a good line for
        so long, the failure is raised."""
        self.hello = replace(hello, resume=b"") if reconnect else hello
        self._make, self._reconnect, self._give_up_s = make, reconnect, give_up_s
        self.on_gap: Callable[[str], None] = lambda note: None
        """Gets a remark for people when the line is lost, and when it is back."""
        self._client = make(self.hello, connect_s)
        self.player: Player = self._client.player
        self._connected = False
        self._leaving = self._over = False
        self._highest = 0
        self._offset = 0
        self._kept: deque[ev.ClientEvent] = deque()
        self._kept_bytes = 0
        self._most_bytes = int(KEPT_S * 2 * hello.input_rate)
        self._unanswered: ev.TextIn | None = None
        self._connected_at = self._trouble_since = 0.0
        self._pause_s = 0.0
        self.dropped_bytes = 0
        """Audio of gaps that were too long."""
        self.gaps_s: list[float] = []
        """From each loss of the line to the next `Ready`."""

    @property
    def ready(self) -> ev.Ready | None:
        return self._client.ready

    async def __aenter__(self) -> SteadyClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> ev.Ready:
        """The first time: whoever cannot be reached now is not waited for. Raises CallFailed."""
        ready = await self._client.connect()
        self._connected = True
        self._connected_at = asyncio.get_running_loop().time()
        return ready

    async def send(self, event: ev.ClientEvent) -> None:
        """Without a line, what is worth it is kept until there is one. Raises CallFailed when there will be none."""
        if self._over:
            raise CallFailed("the session is over")
        if isinstance(event, ev.TextIn):
            self._unanswered = event
        elif isinstance(event, ev.Cancel):
            self._unanswered = None
        if self._connected:
            try:
                await self._client.send(event)
                return
            except CallFailed:
                if not self._reconnect or self._leaving:
                    raise
        self._keep(event)

    async def send_audio(self, pcm: bytes) -> None:
        """PCM16 at the session's input rate, any length. Raises CallFailed, as `send` does."""
        await self.send(ev.AudioIn(pcm))

    async def end_input(self) -> None:
        self._leaving = True
        await self._client.end_input()

    async def hang_up(self, reason: str = "client hung up") -> None:
        """Raises CallFailed when the stream is over already."""
        self._leaving = True
        await self._client.hang_up(reason)

    async def close(self) -> None:
        self._leaving = True
        await self._client.close()

    def _keep(self, event: ev.ClientEvent) -> None:
        if isinstance(event, _NOT_KEPT):
            return
        if isinstance(event, ev.AudioIn):
            self._kept_bytes += len(event.pcm)
        elif sum(not isinstance(kept, ev.AudioIn) for kept in self._kept) >= _HELD:
            return
        self._kept.append(event)
        while self._kept_bytes > self._most_bytes:
            oldest = next(kept for kept in self._kept if isinstance(kept, ev.AudioIn))
            self._kept.remove(oldest)
            self._kept_bytes -= len(oldest.pcm)
            self.dropped_bytes += len(oldest.pcm)

    def __aiter__(self) -> AsyncIterator[Arrival]:
        return self._arrivals()

    async def _arrivals(self) -> AsyncIterator[Arrival]:
        """Everything after the first `ready`. Raises CallFailed when the line broke for good."""
        try:
            async for arrival in self._over_all_lines():
                yield arrival
        finally:
            self._over = True

    async def _over_all_lines(self) -> AsyncIterator[Arrival]:
        while True:
            closed: ev.Closed | None = None
            try:
                async for arrival in self._client:
                    if isinstance(arrival.event, ev.Closed):
                        closed = arrival.event
                        if self._wanted and closed.retryable:
                            break
                    yield self._shown(arrival)
                if closed is None or not (self._wanted and closed.retryable):
                    return
                why = closed.message or closed.reason
            except CallFailed as failure:
                if not self._wanted or failure.status not in _AGAIN:
                    raise
                why = str(failure)
            yield await self._connect_again(why)

    @property
    def _wanted(self) -> bool:
        return self._reconnect and not self._leaving

    def _shown(self, arrival: Arrival) -> Arrival:
        event = arrival.event
        if isinstance(event, ev.ReplyStarted):
            self._unanswered = None
        if isinstance(event, ev.ReplyStarted | ev.ReplyAudio | ev.Flushed):
            self._highest = max(self._highest, event.generation + self._offset)
            if self._offset:
                return Arrival(arrival.at, replace(event, generation=event.generation + self._offset))
        return arrival

    async def _connect_again(self, why: str) -> Arrival:
        """Raises CallFailed with the last reason once it has been tried for long enough."""
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        self._connected = False
        if not self._pause_s or lost_at - self._connected_at >= _LASTS_S:
            self._trouble_since, self._pause_s = lost_at, _FIRST_S
        self.on_gap(f"{why}; connecting again")
        before = self._client
        assert before.ready is not None
        hello = replace(self.hello, session_id=before.ready.session_id, resume=before.token)
        await before.close()
        if self._has_given_up(lost_at):
            raise CallFailed(why, grpc.StatusCode.UNAVAILABLE)
        wait_s = 0.0
        while True:
            await asyncio.sleep(max(wait_s, random.uniform(0, self._pause_s)))
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
            self._client = self._make(hello, _TRY_S)
            try:
                ready = await self._client.connect()
                break
            except CallFailed as failure:
                await self._client.close()
                if self._leaving or failure.status not in _AGAIN or self._has_given_up(loop.time()):
                    raise
                wait_s = failure.retry_s or 0.0
            except BaseException:
                await self._client.close()
                raise
        self._offset = self._highest + 1
        self._client.take_over(self.player, self._offset)
        now = self._connected_at = loop.time()
        self.gaps_s.append(now - lost_at)
        what = "with its history" if ready.resumed else "without its history"
        self.on_gap(f"connected again after {now - lost_at:.1f} s, {what}")
        await self._catch_up()
        return Arrival(now, ready)

    def _has_given_up(self, now: float) -> bool:
        return now - self._trouble_since > self._give_up_s

    async def _catch_up(self) -> None:
        """What was kept, in order, while more of it comes; only then the line is open to others."""
        try:
            if self._unanswered is not None:
                await self._client.send(self._unanswered)
            while self._kept:
                event = self._kept.popleft()
                if isinstance(event, ev.AudioIn):
                    self._kept_bytes -= len(event.pcm)
                await self._client.send(event)
        except CallFailed:
            return  # whoever reads is told, and connects again
        self._connected = True
