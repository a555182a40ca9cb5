"""uvicorn inside a running event loop: no signal handlers, no access log, no polling while it serves."""

from __future__ import annotations

import asyncio
import socket
import ssl

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_GRACE_S = 1
"""Responses still running this long after `stop()` are cancelled."""
_KEEP_ALIVE_S = 75
HEAD_S = 10.0
"""What a request's head may take to come, counted from its first byte; for the first one from the connection's begin."""
_LISTENING = {"ssl_handshake_timeout": 10.0, "ssl_shutdown_timeout": 2.0}
"""A client that connects and does not finish its handshake, or its goodbye, is cut off."""


def serve_http(app: ASGIApp, host: str, port: int, tls: ssl.SSLContext | None = None) -> HttpServer:
    """A server for `app`, not started yet. Port 0 takes any free one. tls: None serves plain HTTP."""
    return HttpServer(app, host, port, tls)


class HttpServer:
    """`port = await server.start()` … `await server.stop()`."""

    def __init__(self, app: ASGIApp, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # uvicorn would believe what any process of this machine says
                date_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError when the address is taken or not ours."""
        self._socket = await _bound_socket(self._host, self._port)
        server = self._server
        server.config.load()
        server.config.ssl = self._tls
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[self._socket])
        return int(self._socket.getsockname()[1])

    async def stop(self) -> None:
        """Stops listening, ends what still runs after a short grace. May be called twice."""
        listening, self._socket = self._socket, None
        if listening is None:
            return
        state = self._server.server_state
        if state.connections:
            await self._server.shutdown(sockets=[listening])
        else:  # nothing to wait for, so not even uvicorn's tenth of a second
            for server in self._server.servers:
                server.close()
            listening.close()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for connection in list(state.connections):
            transport: asyncio.Transport | None = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


class _Protocol(H11Protocol):
    """uvicorn's, which would wait for a head for ever: anybody could hold as many connections as there may be."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._waiting is None and self.timeout_keep_alive_task is None:  # a further request has begun
            self._waiting = self.loop.call_later(HEAD_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            if self.conn.trailing_data[0]:
                said = f"The request did not arrive: its head took longer than {HEAD_S:g} s.".encode()
                headers = [
                    ("content-type", "text/plain"),
                    ("connection", "close"),
                    ("content-length", str(len(said))),
                ]
                answer: list[h11.Event] = [
                    h11.Response(status_code=408, headers=headers, reason="Request Timeout"),
                    h11.Data(data=said),
                    h11.EndOfMessage(),
                ]
                for event in answer:
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()


async def _bound_socket(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
