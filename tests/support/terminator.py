"""A part that speaks TLS and demands certificates: takes it off in front of one that speaks in the clear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gateway.settings import TlsSettings
from gateway.tls.server import server_context


class Terminator:
    def __init__(self, plain: str) -> None:
        """plain: host:port behind it."""
        self._host, _, self._port = plain.rpartition(":")
        self.address = ""
        self.seen: list[str] = []
        """Serial numbers of clients' certificates, one for each connection."""
        self._pipes: set[asyncio.Task[Any]] = set()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found: dict[str, Any] = writer.get_extra_info("ssl_object").getpeercert()
        self.seen.append(found["serialNumber"].lower().lstrip("0"))
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        upstream = None
        try:
            there, upstream = await asyncio.open_connection(self._host, int(self._port))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, upstream))
                group.create_task(_pump(there, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._pipes.discard(task)
            for one in (writer, upstream):
                if one is not None:
                    one.transport.abort()

    def cut(self) -> None:
        """Every connection."""
        for pipe in list(self._pipes):
            pipe.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionError("over")


@asynccontextmanager
async def terminator(plain: str, tls: TlsSettings, protocols: Sequence[str]) -> AsyncIterator[Terminator]:
    made = Terminator(plain)
    context = server_context(tls, "a part", protocols)
    server = await asyncio.start_server(made.pass_on, "127.0.0.1", 0, ssl=context)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.cut()
        while made._pipes:
            await asyncio.wait(set(made._pipes))
