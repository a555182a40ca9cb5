"""Messages between a parent process and its worker: a line of JSON each, over a socket pair.

Either side sees the other's end as the end of the stream, however it ended.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

Message = dict[str, Any]

_LINE = 16 * 2**20
"""Longest message, bytes: a thousand sessions' worth of /v1/sessions is a tenth of it."""
_UNREAD = 4 * 2**20
"""A peer that leaves this much unread has stopped for good."""


class Link:
    """One end; made by `open_link`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Message) -> None:
        """Never blocks and never raises; a peer that does not read is hung up on."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > _UNREAD:
            transport.abort()
        else:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readline()
            found: Message | None = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return found

    async def sent(self, within_s: float) -> None:
        """Returns once everything has left, or after that long."""
        try:
            async with asyncio.timeout(within_s):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass

    def close(self) -> None:
        self._writer.close()


async def open_link(end: socket.socket) -> Link:
    """The link takes the socket over."""
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LINE)
    return Link(reader, writer)
