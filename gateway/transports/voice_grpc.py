"""`parley.v1.Voice/Converse`: one gRPC stream, one session.

The handler of a request only shakes hands and writes what the outbox holds. The session itself runs
in the server's own tasks and reads the stream when it is ready for more, so that a client which sends
faster than it is served meets HTTP/2 flow control, not a queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway.session.events import Connection
from gateway.settings import SessionSettings
from gateway.transports import voice_wire as wire
from gateway.transports.pulse import Pulse
from gateway.transports.voice_connection import Context, TooLarge, VoiceConnection, parsed, status_of

log = logging.getLogger(__name__)

SERVICE = "parley.v1.Voice"
_ABORT_S = 2.0
"""How long a status may wait behind unread messages before the request is left to its fate."""
_RETRY_MS = {"shutting_down": (100, 1_000)}
_RETRY_LATER_MS = (1_000, 3_000)
"""When a refused client may try again: spread, so that those refused together do not come back together."""
_IDLE_MS = 500
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
    ) -> None:
        """shared_port: other processes listen on the address as well, and the system spreads connections."""
        self._sessions = sessions
        self._settings = settings
        self._address = address
        self._on_drop = on_drop
        self._shared_port = shared_port
        self._admitting = True
        self._setting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._pulse = Pulse(ping_s=settings.ping_s, lost_s=settings.lost_s)

    async def start(self) -> str:
        """Listen; returns host:port. Raises OSError when the address cannot be had."""
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(self._shared_port)),
                # Above our own limit, so that the clear refusal is ours; the rest never enters memory.
                ("grpc.max_receive_message_length", self._settings.max_message_bytes + 256 * 1024),
                # What a stream that is read slowly may hold here: 4 s of PCM16 at 16 kHz. Left to itself
                # the window grows to megabytes, and a flood is bought with our memory.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", 128 * 1024),
                # A peer that vanished without a word is noticed within 30 s.
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
                *((("grpc.max_connection_idle_ms", _IDLE_MS),) if self._shared_port else ()),
            ],
            maximum_concurrent_rpcs=self._settings.max_sessions + 256,
        )
        # Raw bytes in and out: a message that does not parse is refused with our words and status.
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._converse)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Converse": handler}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address}: the address is taken or not ours") from error
        if port == 0:
            raise OSError(f"cannot listen on {self._address}: the address is taken or not ours")
        await server.start()
        self._server = server
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{self._address.rpartition(':')[0]}:{port}"

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

    async def stop(self, grace_s: float) -> None:
        """Refuse new streams, give those open `grace_s`, then cut them."""
        if self._server is None:
            return
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        self._server = None
        if self._serving:
            await asyncio.wait(self._serving, timeout=5.0)

    async def _converse(self, _requests: object, context: Context) -> None:
        opening = await self._handshake(context)

        def gone() -> None:
            serving.cancel(connection.lost)

        connection = VoiceConnection(context, opening, self._settings, self._on_drop, gone)
        self._pulse.add(connection)
        serving = asyncio.create_task(self._sessions.serve(connection))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        serving.add_done_callback(lambda _: connection.close())
        try:
            if not await _is_refused(serving):
                # By itself: a refusal may cut the first message's write short, and then grpc.aio would try to
                # send the metadata again, in vain, and the client never see a status.
                await context.send_initial_metadata(())
                await connection.write_all()
        except asyncio.CancelledError:
            connection.fail("the client cancelled the stream")
            raise
        except Exception as error:
            connection.fail("the stream broke")
            if context.cancelled() or context.done():
                return
            log.exception("a stream could not be written")
            await _abort(context, grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}")
        finally:
            self._pulse.discard(connection)
        if connection.refusal:
            await _abort(context, *connection.refusal)
        if connection.failure:
            await _abort(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"closed as a slow client: {connection.failure}; read the stream as fast as it comes",
            )
        await self._tell_outcome(serving, context)

    async def _handshake(self, context: Context) -> wire.Opening:
        wait_s = self._settings.handshake_s
        try:
            async with asyncio.timeout(wait_s):
                raw: Any = await context.read()
        except TimeoutError:
            await _abort(
                context,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no `start` came within {wait_s:g} s; send it as the first message",
            )
        if raw is grpc.aio.EOF:
            await _abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "the stream ended without a message; send `start` first",
            )
        try:
            return wire.hello(parsed(raw, self._settings), self._settings.max_text_chars)
        except (wire.BadMessage, TooLarge) as error:
            await _abort(context, status_of(error), str(error))

    async def _tell_outcome(self, serving: asyncio.Task[None], context: Context) -> None:
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
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(wait_ms)),))
            await _abort(context, status, f"{getattr(error, 'message', error)}")
        log.error("a session failed", exc_info=error)
        await _abort(context, grpc.StatusCode.INTERNAL, "internal error: the session ended; connect again")


async def _is_refused(serving: asyncio.Task[None]) -> bool:
    """Whether no session came of it. Its status then goes out alone: a client's own retries end with the
    first metadata that it gets."""
    await asyncio.sleep(0)
    return serving.done() and not serving.cancelled() and serving.exception() is not None


async def _abort(context: Context, status: grpc.StatusCode, text: str) -> NoReturn:
    try:
        async with asyncio.timeout(_ABORT_S):
            await context.abort(status, text)
    except (TimeoutError, grpc.aio.InternalError):
        # The client reads nothing, not even its status, or went away first; the connection's keepalive or
        # its end frees the rest.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")
