"""The connections that go through a proxy: their two ends, and what is under way between them."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset."""
_HIGH, _LOW = 256 * 1024, 64 * 1024
"""Bytes under way in one direction: above the one nothing more is read, below the other it is again."""
_PIECE_S = 0.02
"""What a narrow line carries in this time goes out together."""
_SOON_S = 0.0005
"""Timers of an event loop are that exact."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to bytes on their way, in both directions."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    """Latency is drawn evenly from so much less to so much more; the order of bytes is kept."""
    kbps: float = 0.0
    """Thousands of bits a second, each way; 0: no limit."""
    standstill: bool = False
    """Nothing moves, and nobody is told: a half-open connection."""


FINE = Weather()


class Line(Protocol):
    """What a connection knows of its proxy."""

    weather: Weather
    random: random.Random
    passed: int
    delayed: int

    def accept(self, near: End) -> None:
        """A client is there."""

    def forget(self, pair: Pair) -> None:
        """A connection is over."""


class End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(self, line: Line, pair: Pair | None = None) -> None:
        self._line, self.pair = line, pair
        self._near = pair is None
        self.transport: asyncio.Transport | None = None
        self.over = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._near:
            self._line.accept(self)

    def data_received(self, data: bytes) -> None:
        if self.pair is not None:
            self.pair.way_from(self).take(data)

    def pause_writing(self) -> None:
        if self.pair is not None:
            self.pair.way_to(self).hold(True)

    def resume_writing(self) -> None:
        if self.pair is not None:
            self.pair.way_to(self).hold(False)

    def connection_lost(self, error: Exception | None) -> None:
        self.over = True
        if self.pair is not None:
            self.pair.ended(self, error)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.over:
            self.transport.write(data)

    def pause(self, wanted: bool = True) -> None:
        if self.transport is None or self.over or wanted == self._paused or self.transport.is_closing():
            return
        self._paused = wanted
        if wanted:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def close(self) -> None:
        if self.transport is not None and not self.over:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is None or self.over:
            return
        raw = self.transport.get_extra_info("socket")
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it is gone already
        self.transport.abort()


class Way:
    """One direction of a connection: what was read and is not written yet."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.source: End | None = None
        self.sink: End | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._held = False
        self._ending = False

    def take(self, data: bytes) -> None:
        weather = self._line.weather
        if weather is FINE and not self._queue and self.sink is not None:
            self._line.passed += len(data)
            self.sink.write(data)
            return
        self._line.delayed += len(data)
        now = asyncio.get_running_loop().time()
        jitter = self._line.random.uniform(-weather.jitter_ms, weather.jitter_ms)
        begin = now + max(0.0, weather.latency_ms + jitter) / 1000
        rate = weather.kbps * 125  # bytes per second
        size = max(256, int(rate * _PIECE_S)) if rate else len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._free_at = max(self._free_at, begin) + (len(piece) / rate if rate else 0.0)
            self._queue.append((self._free_at, piece))
            self._bytes += len(piece)
        self._arm()
        self.flow()

    def flow(self) -> None:
        """Read on, or not."""
        if self.source is None:
            return
        if self._line.weather.standstill or self._held or self.sink is None or self._bytes > _HIGH:
            self.source.pause()
        elif self._bytes < _LOW:
            self.source.pause(False)

    def hold(self, wanted: bool) -> None:
        """The sink's socket is full, or takes again."""
        self._held = wanted
        self.flow()

    def end(self) -> None:
        """The source has ended: so does the sink, once it has everything."""
        self._ending = True
        self._arm()

    def feel(self) -> None:
        """The weather has changed."""
        if self._line.weather is FINE:  # what was held back need not wait for a line that is free
            now = asyncio.get_running_loop().time()
            self._queue = deque((min(due, now), data) for due, data in self._queue)
            self._free_at = 0.0
        self._arm()
        self.flow()

    def stop(self) -> None:
        self._queue.clear()
        self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._line.weather.standstill or self.sink is None:
            return
        if self._queue:
            self._timer = asyncio.get_running_loop().call_at(self._queue[0][0], self._deliver)
        elif self._ending:
            self.sink.close()

    def _deliver(self) -> None:
        self._timer = None
        assert self.sink is not None
        now = asyncio.get_running_loop().time() + _SOON_S
        while self._queue and self._queue[0][0] <= now:
            _, data = self._queue.popleft()
            self._bytes -= len(data)
            self._line.passed += len(data)
            self.sink.write(data)
        self._arm()
        self.flow()


class Pair:
    """A client's connection and ours to the address behind."""

    def __init__(self, line: Line, near: End) -> None:
        self._line = line
        self._near, self._far = near, cast("End | None", None)
        near.pair = self
        self._up, self._down = Way(line), Way(line)
        self._up.source = self._down.sink = near
        self._closing: asyncio.TimerHandle | None = None
        self._over = self._gone = False

    def join(self, far: End) -> None:
        """The other end is there: unless it all is over meanwhile."""
        if self._over:
            far.reset()
            return
        if self._closing is not None:
            far.close()
            return
        self._far = far
        self._up.sink = self._down.source = far
        self.feel()

    def way_from(self, end: End) -> Way:
        return self._up if end is self._near else self._down

    def way_to(self, end: End) -> Way:
        return self._down if end is self._near else self._up

    def feel(self) -> None:
        self._up.feel()
        self._down.feel()

    def ended(self, end: End, error: Exception | None) -> None:
        if self._closing is not None and end is not self._near:
            return  # the near end follows in its own time
        if error is not None or self._closing is not None or self._gone:
            self.reset()
        elif self._far is None:
            self._forget()
        else:
            self.way_from(end).end()
        if self._near.over and (self._far is None or self._far.over):
            self._forget()

    def reset(self) -> None:
        self._forget()
        self._near.reset()
        if self._far is not None:
            self._far.reset()

    def close_slowly(self, after_s: float) -> None:
        if self._closing is not None:
            return
        self._closing = asyncio.get_running_loop().call_later(after_s, self._close_near)
        self._up.stop()
        self._up.sink = Nowhere(self._line)
        self._up.feel()
        if self._far is not None:
            self._far.close()

    def vanish(self) -> None:
        """What either end sends from now on goes nowhere, and neither is told."""
        self._gone = True
        for way in (self._up, self._down):
            way.stop()
            way.sink = Nowhere(self._line)
            way.feel()

    def _close_near(self) -> None:
        self._near.close()

    def _forget(self) -> None:
        self._over = True
        if self._closing is not None:
            self._closing.cancel()
        self._up.stop()
        self._down.stop()
        self._line.forget(self)


class Nowhere(End):
    """Takes everything and passes nothing on."""

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.over = True
