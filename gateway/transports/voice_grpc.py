"""`parley.v1.Voice/Converse`: one gRPC stream, one session.

The handler of a request only shakes hands and writes what the outbox holds. The session itself runs
in the server's own tasks and reads the stream when it is ready for more, so that a client which sends
faster than it is served meets HTTP/2 flow control, not a queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from gateway.http2.call import Call, CallOver
from gateway.http2.server import GrpcServer
from gateway.identity import VOICE, Identity, current
from gateway.identity.caller import REVOKED
from gateway.identity.grpc_guard import Handler, guard_all
from gateway.proxies import TrustedProxies
from gateway.session.events import Connection
from gateway.settings import SessionSettings
from gateway.telemetry.context import client_address, read_trace
from gateway.telemetry.grpc_health import HealthService
from gateway.transports import voice_wire as wire
from gateway.transports.pulse import Pulse
from gateway.transports.secret_session import with_session
from gateway.transports.voice_connection import TooLarge, VoiceConnection, parsed, status_of

log = logging.getLogger(__name__)

SERVICE = "parley.v1.Voice"
_RETRY_MS = {"shutting_down": (100, 1_000)}
_RETRY_LATER_MS = (1_000, 3_000)
"""When a refused client may try again: spread, so that those refused together do not come back together."""
_IDLE_S = 0.5
"""Behind a shared port, a connection without a stream is closed: whoever was refused comes back on a new
one, which may lead to another process."""


class Serves(Protocol):
    """What the transport needs of `gateway.session.manager.Sessions`."""

    async def serve(self, connection: Connection) -> None:
        """Runs a session to its end; cancelled with a `Closed` as message when the peer is gone.

        Raises an exception with `code`, `message`, `retryable` to refuse.
        """
        ...


class VoiceServer:
    """The gRPC server of `parley.v1`, with health and reflection."""

    def __init__(
        self,
        sessions: Serves,
        settings: SessionSettings,
        address: str,
        on_drop: Callable[[str, int], None] = lambda reason, frames: None,
        *,
        shared_port: bool = False,
        tls: ssl.SSLContext | None = None,
        proxies: TrustedProxies | None = None,
        identity: Identity | None = None,
    ) -> None:
        """shared_port: other processes listen on the address as well, and the system spreads connections.
        tls: None speaks HTTP/2 in the clear. identity: who may call; None: everybody."""
        self._identity = identity
        self._sessions = sessions
        self._settings = settings
        self._address = address
        self._on_drop = on_drop
        self._shared_port, self._tls = shared_port, tls
        self._proxies = proxies or TrustedProxies(())
        self._admitting = True
        self._setting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._server: GrpcServer | None = None
        self._health = HealthService()
        self._pulse = Pulse(ping_s=settings.ping_s, lost_s=settings.lost_s)

    async def start(self) -> str:
        """Listen; returns host:port. Raises OSError when the address cannot be had."""
        server = GrpcServer(
            # Above our own limit, so that the clear refusal is ours; the rest never enters memory.
            max_message_bytes=self._settings.max_message_bytes + 256 * 1024,
            max_calls=self._settings.max_sessions + 256,
            shared_port=self._shared_port,
            idle_s=_IDLE_S if self._shared_port else 0.0,
            tls=self._tls,
            on_call=self._name_client,
        )
        # Raw bytes in and out: a message that does not parse is refused with our words and status.
        converse: dict[str, Handler] = {"Converse": grpc.stream_stream_rpc_method_handler(self._converse)}
        server.add(SERVICE, self._guarded(converse))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflector = reflection.aio.ReflectionServicer(names)
        reflect = grpc.stream_stream_rpc_method_handler(
            reflector.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add(reflection.SERVICE_NAME, self._guarded({"ServerReflectionInfo": reflect}))
        host, _, port = self._address.rpartition(":")
        try:
            bound = await server.start(host, int(port))
        except (OSError, ValueError, OverflowError) as error:
            raise OSError(f"cannot listen on {self._address}: the address is taken or not ours") from error
        self._server = server
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{host}:{bound}"

    def _name_client(self, call: Call) -> None:
        """For every line of the log that has to do with the call."""
        headers: dict[str, str] = {}
        for name, value in call.invocation_metadata():
            text = value if isinstance(value, str) else ""
            headers[name] = f"{headers[name]},{text}" if name in headers else text
        scheme = "https" if self._tls is not None else "http"
        client_address.set(self._proxies.client(call.peer_address, scheme, headers).address)

    def _guarded(self, handlers: dict[str, Handler]) -> dict[str, Handler]:
        return guard_all(handlers, self._identity, VOICE) if self._identity is not None else handlers

    def set_admitting(self, admitting: bool) -> None:
        """What health says of the service, for balancers; of the server as a whole it goes on saying SERVING."""
        if admitting is not self._admitting:
            self._admitting = admitting
            if self._setting is None or self._setting.done():
                self._setting = asyncio.create_task(self._tell_health())

    async def _tell_health(self) -> None:
        states = health_pb2.HealthCheckResponse
        told: bool | None = None
        while told is not self._admitting:
            told = self._admitting
            await self._health.set(SERVICE, states.SERVING if told else states.NOT_SERVING)

    async def drain(self) -> None:
        """Tells balancers and clients to go elsewhere; refusing them is for the sessions."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            self._server.turn_away(_IDLE_S)

    async def stop(self, grace_s: float) -> None:
        """Refuse new streams, give those open `grace_s`, then cut them."""
        if self._server is None:
            return
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        self._server = None
        if self._serving:
            await asyncio.wait(self._serving, timeout=5.0)

    async def _converse(self, _requests: object, call: Call) -> None:
        caller = current.get()
        opening = await self._handshake(call)
        if caller is not None and caller.session:
            opening = with_session(opening, caller.session)
        if trace := read_trace(call.invocation_metadata()):
            opening = replace(opening, hello=replace(opening.hello, trace=trace))

        def gone() -> None:
            serving.cancel(connection.lost)

        connection = VoiceConnection(call, opening, self._settings, self._on_drop, gone)
        self._pulse.add(connection)
        serving = asyncio.create_task(self._sessions.serve(connection))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        serving.add_done_callback(lambda _: connection.close())
        try:
            if not await _is_refused(serving):
                await connection.write_all()
        except (asyncio.CancelledError, CallOver) as error:
            if error.args[:1] == (REVOKED,):
                connection.turn_out(REVOKED)
            else:
                connection.fail("the client cancelled the stream")
            raise
        except Exception:
            connection.fail("the stream broke")
            raise
        finally:
            self._pulse.discard(connection)
        if connection.refusal:
            await call.abort(*connection.refusal)
        if connection.failure:
            await call.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"closed as a slow client: {connection.failure}; read the stream as fast as it comes",
            )
        await self._tell_outcome(serving, call)

    async def _handshake(self, call: Call) -> wire.Opening:
        wait_s = self._settings.handshake_s
        try:
            async with asyncio.timeout(wait_s):
                raw: Any = await call.read()
        except TimeoutError:
            await call.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no `start` came within {wait_s:g} s; send it as the first message",
            )
        if raw is grpc.aio.EOF:
            await call.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the stream ended without a message; send `start` first",
            )
        try:
            opening = wire.hello(parsed(raw, self._settings), self._settings.max_text_chars)
        except (wire.BadMessage, TooLarge) as error:
            await call.abort(status_of(error), str(error))
        caller = current.get()
        return opening if caller is None else replace(opening, hello=replace(opening.hello, caller=caller.id))

    async def _tell_outcome(self, serving: asyncio.Task[None], call: Call) -> None:
        if not serving.done() or serving.cancelled():
            return
        error = serving.exception()
        if error is None:
            return
        code = getattr(error, "code", None)
        if isinstance(code, str):
            status = grpc.StatusCode.RESOURCE_EXHAUSTED if code == "full" else grpc.StatusCode.UNAVAILABLE
            if getattr(error, "retryable", False):
                wait_ms = random.randint(*_RETRY_MS.get(code, _RETRY_LATER_MS))
                call.set_trailing_metadata((("grpc-retry-pushback-ms", str(wait_ms)),))
            await call.abort(status, f"{getattr(error, 'message', error)}")
        log.error("a session failed", exc_info=error)
        await call.abort(grpc.StatusCode.INTERNAL, "internal error: the session ended; connect again")


async def _is_refused(serving: asyncio.Task[None]) -> bool:
    """Whether no session came of it. Its status then goes out alone: a client's own retries end with the
    first metadata that it gets."""
    await asyncio.sleep(0)
    return serving.done() and not serving.cancelled() and serving.exception() is not None
