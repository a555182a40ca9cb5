"""A gRPC server on the running event loop. Takes the handlers that generated code makes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from gateway.http2.call import Call, CallOver, finish
from gateway.http2.connection import Connection
from gateway.http2.metadata import timeout_s
from gateway.http2.parting import LINGER_S
from gateway.http2.replies import Replies

log = logging.getLogger(__name__)

_BACKLOG = 4_096
_HANDSHAKE_S, _GOODBYE_S = 10.0, 2.0
"""Of TLS: a client that does not finish is cut off."""
_SWEEP_S = 5.0
_PING_AFTER_SWEEPS = 4
"""20 s without a byte: a ping; and without an answer to it after two more sweeps, the peer is gone."""
_STATUS_S = 2.0
"""How long a status may wait behind messages that the client does not read."""
_FIRST_WORD_S = 0.25
"""A status that leaves before the client's first message is lost on grpc.aio's clients: their `write` fails, and they
make INTERNAL of it. So it waits for that message, which comes right behind the headers."""
_CUT_S = 1.0
"""What calls that were cut get to send their status."""


class GrpcServer:
    """Has the methods of grpc.aio.Server that `add_…_to_server` calls."""

    def __init__(
        self,
        *,
        max_message_bytes: int,
        max_calls: int,
        shared_port: bool = False,
        idle_s: float = 0.0,
        tls: ssl.SSLContext | None = None,
        on_call: Callable[[Call], None] = lambda call: None,
    ) -> None:
        """max_calls: open at once, over all connections; more get RESOURCE_EXHAUSTED. idle_s: a connection
        without a call is closed after it; 0 leaves it open. tls: with h2 among its ALPN protocols.
        on_call: in the task of each call, before anything of it."""
        self.max_message_bytes, self.max_calls = max_message_bytes, max_calls
        self._shared_port, self._idle_s = shared_port, idle_s
        self._tls, self._on_call = tls, on_call
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._connections: dict[Replies, int] = {}
        """With the number of sweeps in which nothing came."""
        self._idle: dict[Replies, asyncio.TimerHandle] = {}
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._over = 0
        """Of them, those that only wait to be told their status."""
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopping = False
        self._all_left = asyncio.Event()

    # ---- before it starts -------------------------------------------------------------------------

    def add(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in methods.items()}

    def add_registered_method_handlers(
        self, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """For generated code."""
        self.add(service, methods)

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """For generated code, which registers each method by its name as well."""

    # ---- life -------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        sock = _bound(host, port, shared=self._shared_port)
        try:
            self._listener = await loop.create_server(
                lambda: Connection(self),
                sock=sock,
                backlog=_BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
                ssl_shutdown_timeout=_GOODBYE_S if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        return int(sock.getsockname()[1])

    def turn_away(self, idle_s: float) -> None:
        """New calls are for other servers: who is connected is told so, and whoever comes still is heard, but not
        kept: a connection without a call is closed after `idle_s`. Calls that are open go on."""
        self._idle_s = idle_s
        for connection in list(self._connections):
            connection.refuse_calls()

    async def stop(self, grace_s: float) -> None:
        """No new calls; those open get `grace_s`, then they are cut. Returns when all have ended."""
        if self._listener is None:
            return
        self._stopping = True
        self._listener.close()
        self._listener = None
        for connection in list(self._connections):
            connection.refuse_calls()
        if self._tasks and grace_s > 0:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task, call in list(self._tasks.items()):
            call.status, call.details = grpc.StatusCode.UNAVAILABLE, "the server is shutting down"
            task.cancel()
        left_s = _STATUS_S + _CUT_S
        since = asyncio.get_running_loop().time()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=left_s)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.close()
        left_s -= asyncio.get_running_loop().time() - since
        await self._partings(min(LINGER_S, max(left_s, 0.0)))

    async def _partings(self, within_s: float) -> None:
        """Returns when no connection is left."""
        await asyncio.sleep(0)
        if self._connections:
            self._all_left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._all_left.wait()
        for connection in list(self._connections):
            connection.cut()
        await asyncio.sleep(0)

    # ---- for connections --------------------------------------------------------------------------

    def joined(self, connection: Replies) -> None:
        self._connections[connection] = 0
        self.quiet(connection)
        if self._stopping:
            connection.refuse_calls()

    def left(self, connection: Replies) -> None:
        self._connections.pop(connection, None)
        if (timer := self._idle.pop(connection, None)) is not None:
            timer.cancel()
        if not self._connections:
            self._all_left.set()

    def begin(self, call: Call) -> None:
        call.task = task = asyncio.get_running_loop().create_task(self._serve(call))
        self._tasks[task] = call
        task.add_done_callback(self._tasks.pop)

    def quiet(self, connection: Replies) -> None:
        if not self._idle_s or connection not in self._connections:
            return
        if (timer := self._idle.pop(connection, None)) is not None:
            timer.cancel()

        def look() -> None:
            del self._idle[connection]
            if connection.idle:
                connection.refuse_calls()

        self._idle[connection] = asyncio.get_running_loop().call_later(self._idle_s, look)

    def _sweep(self) -> None:
        """Who says nothing is asked; who does not answer is gone."""
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        for connection, silent in list(self._connections.items()):
            if connection.heard:
                connection.heard = False
                self._connections[connection] = 0
                continue
            self._connections[connection] = silent + 1
            if silent + 1 >= _PING_AFTER_SWEEPS + 2 or (silent and not connection.greeted):
                connection.cut()
            elif silent + 1 == _PING_AFTER_SWEEPS:
                connection.ping()

    # ---- a call -----------------------------------------------------------------------------------

    async def _serve(self, call: Call) -> None:
        self._on_call(call)
        try:
            async with asyncio.timeout(_deadline_s(call)) as deadline:
                await self._answer(call)
        except grpc.aio.AbortError:
            pass
        except CallOver:
            return
        except TimeoutError:
            if deadline.expired():
                call.status, call.details = grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline is over"
            else:
                _failed(call, "TimeoutError")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if call.lost or (task.cancelling() and call.status is None):
                raise
            if not task.cancelling():  # something that the handler waited for was cancelled, not the call
                _failed(call, "CancelledError")
            while task.cancelling():
                task.uncancel()
        except Exception as error:
            _failed(call, type(error).__name__)
        if not self._stopping:
            self._over += 1
            try:
                await call.first_word(_FIRST_WORD_S)
            finally:
                self._over -= 1
        await finish(call, _STATUS_S)

    async def _answer(self, call: Call) -> None:
        handler = self._handlers.get(call.method)
        if handler is None:
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, f"method {call.method} is not served here")
        if len(self._tasks) - self._over > self.max_calls:
            await call.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.max_calls} calls are open; try again later"
            )
        call.deserialize, call.serialize = handler.request_deserializer, handler.response_serializer
        request: Any = call.requests() if handler.request_streaming else await _one_request(call)
        behaviour: Any = next(
            filter(
                None,
                (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream),
            )
        )
        if inspect.isasyncgenfunction(behaviour):
            async with contextlib.aclosing(behaviour(request, call)) as responses:
                async for response in responses:
                    await call.write(response)
            return
        response = await behaviour(request, call)
        if not handler.response_streaming:
            await call.write(response)


async def _one_request(call: Call) -> Any:
    request = await call.read()
    if request is grpc.aio.EOF:
        await call.abort(grpc.StatusCode.INTERNAL, "the call has no request")
    return request


def _deadline_s(call: Call) -> float | None:
    wanted = dict(call.invocation_metadata()).get("grpc-timeout")
    if wanted is None:
        return None
    try:
        return timeout_s(wanted)
    except ValueError as error:
        call.status, call.details = grpc.StatusCode.INTERNAL, str(error)
        raise grpc.aio.AbortError from None


def _failed(call: Call, what: str) -> None:
    log.exception("the call %s failed", call.method)
    call.status, call.details = grpc.StatusCode.UNKNOWN, f"internal error: {what}"


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket for the address. Raises OSError."""
    host = host.removeprefix("[").removesuffix("]")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
