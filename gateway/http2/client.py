"""A channel whose streaming calls go over our own HTTP/2; everything else goes over grpc.aio.

A message on a stream costs grpc.aio two passes through its completion queue; here it is a few bytes
in front of the message (docs/decisions/own-http2-upstream.md).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import ssl
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import grpc
import grpc.aio

from gateway.http2.client_call import StreamCall
from gateway.http2.client_connection import ClientConnection
from gateway.http2.metadata import Header

_DIAL_S = 20.0
_GOODBYE_S = 0.5
_SILENT_MS = 10_000
"""Bytes unacknowledged for this long, or probes unanswered: the peer's machine is gone."""
_PROBE_AFTER_S = 30
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


def speaks_plainly(address: str) -> bool:
    """Whether `address` is a plain "host:port" that is reached without a proxy: others are grpc.aio's."""
    host, _, port = address.rpartition(":")
    plain = port.isdigit() and bool(host) and "/" not in host
    return plain and (bool(directly(address)) or not any(map(os.environ.get, _PROXIES)))


def directly(address: str) -> list[tuple[str, int]]:
    """What a grpc.aio channel to this machine's loopback needs: gRPC asks the way out's proxy for that, too."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return [("grpc.enable_http_proxy", 0)] if loopback else []


class StreamChannel:
    """Has of grpc.aio.Channel what stubs use. Dials with the first streaming call, and again when needed."""

    def __init__(
        self,
        address: str,
        others: grpc.aio.Channel,
        *,
        tls: ssl.SSLContext | None = None,
        name: str = "",
    ) -> None:
        """address: "host:port", which `speaks_plainly`. others: for calls that are not bidirectional streams.

        tls: with h2 among its ALPN protocols; None speaks in the clear. name: host that the certificate is for,
        where `address` has another.
        """
        host, _, port = address.rpartition(":")
        self._authority = name or address
        self._host, self._port = host.strip("[]"), int(port)
        self._tls, self._name = tls, (name or self._host) if tls is not None else None
        self._others = others
        self._connections: list[ClientConnection] = []
        self._waiting: list[tuple[StreamCall, list[Header]]] = []
        self._dialling: asyncio.Task[None] | None = None
        self._closed = False
        self._left = asyncio.Event()
        self.unary_unary = others.unary_unary
        self.unary_stream = others.unary_stream
        self.stream_unary = others.stream_unary

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        _registered_method: bool | None = False,
    ) -> Callable[..., StreamCall]:
        """As grpc.aio.Channel's, without deadlines, credentials and request iterators."""

        def call(*, metadata: Sequence[tuple[str, str | bytes]] = ()) -> StreamCall:
            one = StreamCall(request_serializer, response_deserializer)
            self._begin(one, self._headers(method, metadata))
            return one

        return call

    async def close(self, grace: float | None = None) -> None:
        """Calls in progress are cancelled."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        for call, _ in self._waiting:
            call.cancel()
        self._waiting.clear()
        for connection in list(self._connections):
            connection.cut()
        if self._tls is not None:  # its goodbye takes a round trip, and the socket stays open for it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    while self._connections:
                        self._left.clear()
                        await self._left.wait()
            for connection in list(self._connections):
                connection.abort()
        await self._others.close(grace)

    def _begin(self, call: StreamCall, headers: list[Header]) -> None:
        if self._closed:
            raise grpc.aio.UsageError("the channel is closed")
        for connection in self._connections:
            if connection.has_room:
                connection.begin(call, headers)
                return
        self._waiting.append((call, headers))
        if self._dialling is None:
            self._dialling = asyncio.create_task(self._dial(), context=Context())  # of nobody who waits

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        error = ""
        try:
            async with asyncio.timeout(_DIAL_S):
                _, connection = await loop.create_connection(
                    lambda: ClientConnection(self._lost),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._name,
                )
                connection.watch_peer(_PROBE_AFTER_S, _SILENT_MS)
                try:
                    ready = await connection.ready()
                except asyncio.CancelledError:
                    connection.close()
                    raise
            if ready and connection.has_room:
                self._connections.append(connection)
            else:
                error = f"what listens at {self._host}:{self._port} takes no gRPC calls"
                if connection.why_lost:
                    error += f": {connection.why_lost}"
        except TimeoutError:
            error = f"no connection within {_DIAL_S:g} s"
        except (OSError, ValueError) as failed:
            error = f"failed to connect to {self._host}:{self._port}: {failed}"
        self._dialling = None
        waiting, self._waiting = self._waiting, []
        for call, headers in waiting:
            if call.over:
                continue
            if error:
                call.finish(grpc.StatusCode.UNAVAILABLE, error)
            else:
                self._begin(call, headers)

    def _lost(self, connection: ClientConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        self._left.set()

    def _headers(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> list[Header]:
        headers = [
            (":method", "POST"),
            (":scheme", "http" if self._tls is None else "https"),
            (":path", method),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-parley"),
        ]
        for name, value in metadata:
            raw = value if isinstance(value, bytes) else value.encode()
            is_binary = name.lower().endswith("-bin")
            text = base64.b64encode(raw).decode().rstrip("=") if is_binary else raw.decode("latin-1")
            headers.append((name.lower(), text))
        return headers
