"""TCP connections passed on, byte by byte: what port-forward and a service's address come to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

Dial = Callable[[], Awaitable[socket.socket]]
"""Opens the other half. Raises OSError when nobody answers; the caller then sees a reset."""


class Relay:
    """One listening socket; connections that exist outlive changes of where new ones go."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._server: asyncio.Server | None = None
        self._halves: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """listener: bound already."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Half(self), sock=listener)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for half in list(self._halves):
            half.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def opened(self, near: _Half) -> None:
        task = asyncio.ensure_future(self._join(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, near: _Half) -> None:
        assert near.transport is not None
        near.transport.pause_reading()
        far = _Half(None)
        try:
            dialled = await self._dial()
            await asyncio.get_running_loop().create_connection(lambda: far, sock=dialled)
        except OSError:
            near.transport.abort()
            return
        if near.transport.is_closing():
            far.transport.abort()  # type: ignore[union-attr]
            return
        near.other, far.other = far, near
        self.track(far)
        near.transport.resume_reading()

    def track(self, half: _Half) -> None:
        assert half.transport is not None
        self._halves.add(half.transport)
        half.forget = self._halves.discard


class _Half(asyncio.Protocol):
    def __init__(self, relay: Relay | None) -> None:
        self._relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _Half | None = None
        self.forget: Callable[[asyncio.Transport], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._relay is not None:
            self._relay.track(self)
            self._relay.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        if (
            self.other is not None
            and self.other.transport is not None
            and self.other.transport.can_write_eof()
        ):
            self.other.transport.write_eof()
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        assert self.transport is not None
        if self.forget is not None:
            self.forget(self.transport)
        if self.other is not None and self.other.transport is not None:
            if error is None:
                self.other.transport.close()
            else:
                self.other.transport.abort()
