"""A gRPC server with a test's handlers, and an HTTP/2 client that does what no decent client would."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from gateway.http2.call import Call
from gateway.http2.server import GrpcServer

SERVICE = "test.Test"
WAIT_S = 10.0


async def echo(requests: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


async def join(requests: AsyncIterator[bytes], _call: Call) -> bytes:
    return b"".join([message async for message in requests])


async def shout(request: bytes, _call: Call) -> bytes:
    return request.upper()


async def letters(request: bytes, _call: Call) -> AsyncIterator[bytes]:
    for at in range(len(request)):
        yield request[at : at + 1]


USUAL: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Shout": grpc.unary_unary_rpc_method_handler(shout),
    "Letters": grpc.unary_stream_rpc_method_handler(letters),
}


def bidi(handler: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.stream_stream_rpc_method_handler(handler)


@asynccontextmanager
async def serving(
    more: dict[str, grpc.RpcMethodHandler[Any, Any]] | None = None,
    *,
    max_message_bytes: int = 4 * 1024 * 1024,
    max_calls: int = 1_000,
    idle_s: float = 0.0,
) -> AsyncIterator[tuple[GrpcServer, int]]:
    """(server, port)."""
    server = GrpcServer(max_message_bytes=max_message_bytes, max_calls=max_calls, idle_s=idle_s)
    server.add(SERVICE, USUAL | (more or {}))
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.stop(0)
        assert not server._tasks, "calls are left"


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message as it lies in DATA frames."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Of any kind and size, whatever the rules say."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def data_frame(stream: int, payload: bytes, *, end: bool = False, padding: int | None = None) -> bytes:
    if padding is None:
        return frame(0, int(end), stream, payload)
    return frame(0, int(end) | 8, stream, bytes((padding,)) + payload + bytes(padding))


class Peer:
    """What came is in `received`, `headers`, `trailers`, `resets`, `credit`, by stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.rules = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.gives_credit = True
        self.received: defaultdict[int, bytes] = defaultdict(bytes)
        self.headers: dict[int, dict[str, str]] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.credit: defaultdict[int, int] = defaultdict(int)
        """What the server's WINDOW_UPDATEs add up to; 0 is the connection."""
        self.goaway: int | None = None
        self.events: list[Event] = []
        self.closed = False
        self._cut = b""

    async def greet(self, settings: dict[int, int] | None = None) -> None:
        if settings:
            self.rules.local_settings.update(settings)
        self.rules.initiate_connection()
        await self.flush()
        await self.ping()  # the server's settings have come, and its credit for the connection

    def open(self, method: str = "Echo", *extra: tuple[str, str], end: bool = False) -> int:
        """A new stream; call `flush` to send it."""
        stream = self.rules.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{SERVICE}/{method}",
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        } | dict(extra)
        self.rules.send_headers(stream, list(headers.items()), end_stream=end)
        return stream

    async def flush(self) -> None:
        await self.send(self.rules.data_to_send())

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        async with asyncio.timeout(WAIT_S):
            await self._writer.drain()
        await asyncio.sleep(0)  # drain alone does not let the server run

    async def until(self, done: Callable[[], bool]) -> None:
        """Reads until it is so. Fails after 10 s, or when the server closes first."""
        async with asyncio.timeout(WAIT_S):
            while not done():
                assert await self.read(), "the server closed the connection"

    async def until_closed(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.read():
                pass

    async def read(self) -> bool:
        """Some bytes; False at the connection's end."""
        try:
            raw = await self._reader.read(65_536)
        except ConnectionError:
            raw = b""
        if not raw:
            self.closed = True
            self._writer.close()
            return False
        for event in self.rules.receive_data(self._without_goodbyes(raw)):
            self._note(event)
        answer = self.rules.data_to_send()
        if answer and not self._writer.is_closing():
            self._writer.write(answer)
        return True

    def _without_goodbyes(self, raw: bytes) -> bytes:
        """h2 takes nothing more after a GOAWAY, where the protocol lets calls finish."""
        raw, kept = self._cut + raw, b""
        while len(raw) >= 9 and len(raw) >= (size := 9 + int.from_bytes(raw[:3], "big")):
            if raw[3] == 7:
                self.goaway = int.from_bytes(raw[13:17], "big")
            else:
                kept += raw[:size]
            raw = raw[size:]
        self._cut = raw
        return kept

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, DataReceived):
            self.received[event.stream_id] += event.data or b""
            if self.gives_credit and event.flow_controlled_length:
                self.rules.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, ResponseReceived):
            self.headers[event.stream_id] = _texts(event.headers)
            if "grpc-status" in self.headers[event.stream_id]:
                self.trailers[event.stream_id] = self.headers[event.stream_id]
        elif isinstance(event, TrailersReceived):
            self.trailers[event.stream_id] = _texts(event.headers)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = int(event.error_code or 0)
        elif isinstance(event, WindowUpdated):
            self.credit[event.stream_id or 0] += event.delta or 0

    async def status(self, stream: int) -> tuple[int, str]:
        await self.until(lambda: stream in self.trailers)
        found = self.trailers[stream]
        return int(found["grpc-status"]), found.get("grpc-message", "")

    async def ping(self) -> None:
        """Returns once the server has handled everything sent before."""
        seen = len(self.events)
        self.rules.ping(b"12345678")
        await self.flush()
        await self.until(lambda: any("PingAckReceived" in repr(event) for event in self.events[seen:]))

    def keeps_little(self) -> None:
        """What is not read stays with the server."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)

    def vanish(self) -> None:
        cast(asyncio.Transport, self._writer.transport).abort()


def _texts(headers: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in headers or ()}


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()


@asynccontextmanager
async def peer(
    port: int, *, greet: bool = True, settings: dict[int, int] | None = None
) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = Peer(reader, writer)
    try:
        if greet:
            await found.greet(settings)
        yield found
    finally:
        found.vanish()
