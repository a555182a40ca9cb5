"""One address before several processes, as a Service of Kubernetes is: connections, not calls, are spread.

A connection goes to a backend that is `ready` at that moment and stays there until either end closes it.
"""

from __future__ import annotations

import asyncio
import contextlib

_BLOCK = 64 * 1024


class Service:
    """`address = await service.open()`, backends added and taken away meanwhile, `await service.close()`."""

    def __init__(self) -> None:
        self._ready: list[str] = []
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], str] = {}
        self.taken: dict[str, int] = {}
        """Connections so far, by backend."""

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def add(self, backend: str) -> None:
        """host:port; from now on it gets its share of new connections."""
        self._ready.append(backend)

    def remove(self, backend: str) -> None:
        """No new connections; those it has stay."""
        if backend in self._ready:
            self._ready.remove(backend)

    def cut(self, backend: str) -> int:
        """Resets its connections, as when its node is gone; returns how many there were."""
        cut = [task for task, owner in self._open.items() if owner == backend]
        for task in cut:
            task.cancel()
        return len(cut)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        backend = ""
        try:
            if not self._ready:
                return
            self._turn += 1
            backend = self._ready[self._turn % len(self._ready)]
            self._open[task] = backend
            self.taken[backend] = self.taken.get(backend, 0) + 1
            host, _, port = backend.rpartition(":")
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, there_writer))
                    group.create_task(_pump(there_reader, writer))
            finally:
                there_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass  # either end is gone, or we are
        finally:
            self._open.pop(task, None)
            writer.transport.abort() if not writer.is_closing() else None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(_BLOCK):
        writer.write(block)
        await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
