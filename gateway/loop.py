"""The event loop of a gateway: uvloop, woken less often by gRPC.

grpc.aio tells the loop of every completed operation with a byte through a socket pair, and handles all
that have completed each time it is woken: with many streams it is woken some ten times for what one
time would do (docs/decisions/wake-ups.md). This loop takes all bytes at once and, when operations complete by the thousand, leaves
the rest waiting for 2 or 3 ms, so that one wake-up serves several.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any, TypeVarTuple

import uvloop

_Ts = TypeVarTuple("_Ts")

_MANY = 4_096
_CALM_PER_S = 1_000.0
"""Below so many operations a second nothing waits."""
_PAUSE_PER_OPERATION_S = 1 / 2_500_000
"""At 5,000 operations a second: 2 ms."""
_LONGEST_PAUSE_S = 0.003
_MEMORY_S = 0.5


class GatewayLoop(uvloop.Loop):
    """Any other loop serves as well, at a higher price."""

    def __init__(self) -> None:
        super().__init__()
        self._wakers: dict[socket.socket, _Waker] = {}

    def add_reader(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
        if _is_completion_queue(fd, callback):
            self._wakers[fd] = _Waker(self, fd, functools.partial(callback, *args))
            super().add_reader(fd, self._wakers[fd].wake)
        else:
            super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> Any:
        waker = self._wakers.pop(fd, None) if isinstance(fd, socket.socket) else None
        if waker is not None:
            waker.close()
        return super().remove_reader(fd)

    def _pause(self, waker: _Waker, seconds: float) -> None:
        super().remove_reader(waker.socket)
        self.call_later(seconds, self._go_on, waker)

    def _go_on(self, waker: _Waker) -> None:
        if not waker.closed and not self.is_closed():
            super().add_reader(waker.socket, waker.wake)


class _Waker:
    """Of one completion queue."""

    def __init__(self, loop: GatewayLoop, sock: socket.socket, handle: Callable[[], Any]) -> None:
        self._loop, self.socket, self._handle = loop, sock, handle
        self._rate, self._since = 0.0, loop.time()
        self._count = 0
        self.closed = False

    def wake(self) -> None:
        try:
            waiting = len(self.socket.recv(_MANY, socket.MSG_PEEK))
            if waiting > 1:  # the handler takes one itself
                self.socket.recv(waiting - 1)
        except (BlockingIOError, InterruptedError):
            return
        self._handle()
        pause_s = self._pause_s(waiting)
        if pause_s and not self.closed:
            self._loop._pause(self, pause_s)

    def close(self) -> None:
        self.closed = True

    def _pause_s(self, waiting: int) -> float:
        self._count += waiting
        now = self._loop.time()
        if now - self._since >= _MEMORY_S:
            self._rate = self._count / (now - self._since)
            self._count, self._since = 0, now
        if self._rate < _CALM_PER_S:
            return 0.0
        return min(_LONGEST_PAUSE_S, self._rate * _PAUSE_PER_OPERATION_S)


def _is_completion_queue(fd: object, callback: object) -> bool:
    """Whether grpc.aio asks to be told of its completed operations."""
    owner = getattr(getattr(callback, "func", callback), "__self__", None)
    return isinstance(fd, socket.socket) and type(owner).__name__ == "PollerCompletionQueue"
