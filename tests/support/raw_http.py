"""One HTTP request as bytes, so that a test sees exactly what the server said."""

from __future__ import annotations

import asyncio


async def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], str]:
    """(status, headers with names in lower case, body) from 127.0.0.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        async with asyncio.timeout(10):
            answer = (await reader.read()).decode(errors="replace")
    finally:
        writer.close()
    head, _, text = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, text
