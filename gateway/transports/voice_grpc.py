"""`parley.v1.Voice/Converse`: one gRPC stream, one session.

The handler of a request only shakes hands and writes what the outbox holds. The session itself runs
in the server's own tasks and reads the stream when it is ready for more, so that a client which sends
faster than it is served meets HTTP/2 flow control, not a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway.audio.opus import OpusDecoder, OpusEncoder
from gateway.audio.pcm import frame_bytes
from gateway.protocol import voice_pb2 as pb
from gateway.session.events import AudioIn, ClientEvent, Connection, Hello, Ready, ReplyAudio, ServerEvent
from gateway.settings import SessionSettings
from gateway.transports import voice_wire as wire
from gateway.transports.outbox import Outbox

log = logging.getLogger(__name__)

SERVICE = "parley.v1.Voice"
_ABORT_S = 2.0
"""How long a status may wait behind unread messages before the request is left to its fate."""
_EOF_SETTLE_S = 0.1

Context = grpc.aio.ServicerContext[bytes, bytes]


class Serves(Protocol):
    """What the transport needs of `gateway.session.manager.Sessions`."""

    async def serve(self, connection: Connection) -> None:
        """Runs a session to its end. Raises an exception with `code`, `message`, `retryable` to refuse."""
        ...


class VoiceConnection:
    """The session's view of one stream."""

    def __init__(
        self,
        context: Context,
        opening: wire.Opening,
        settings: SessionSettings,
        on_drop: Callable[[str, int], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._context = context
        self._opening = opening
        self._settings = settings
        self._decoder = OpusDecoder(opening.hello.input_rate) if opening.input_opus else None
        self._encoder = OpusEncoder(opening.hello.output_rate) if opening.output_opus else None
        self._outbox = Outbox(
            rate=opening.hello.output_rate,
            limit_ms=settings.outbox_ms,
            stall_s=settings.slow_client_s,
            on_drop=on_drop,
            on_failed=self._failed,
        )
        self._on_gone = on_gone
        self._writing: asyncio.Timeout | None = None
        self._gone = asyncio.Event()
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        """What the client did wrong, once it did, and the status that says so."""

    # ---- for the session ---------------------------------------------------------------------------

    @property
    def hello(self) -> Hello:
        return self._opening.hello

    def events(self) -> AsyncIterator[ClientEvent]:
        return self

    def __aiter__(self) -> AsyncIterator[ClientEvent]:
        return self

    async def __anext__(self) -> ClientEvent:
        while True:
            raw = await self._read()
            try:
                event = wire.client_event(_parsed(raw, self._settings), self._settings.max_text_chars)
                if isinstance(event, AudioIn):
                    if self._decoder is not None:
                        event = AudioIn(self._decoder.decode(event.pcm))
                    if not event.pcm:
                        continue
            except (wire.BadMessage, ValueError) as error:
                self.refusal = _status(error), str(error)
                self._outbox.fail(str(error))
                raise ConnectionError(str(error)) from error
            return event

    def send(self, event: ServerEvent) -> None:
        self._outbox.put(event)

    def backlog_ms(self) -> int:
        return self._outbox.backlog_ms()

    async def drained(self) -> None:
        await self._outbox.drained()

    # ---- for the request's handler -----------------------------------------------------------------

    @property
    def failure(self) -> str:
        """Why the stream was given up; empty while it was not."""
        return self._outbox.failure

    def close(self) -> None:
        """The session is over: what is queued goes out, then `write_all` returns."""
        self._outbox.close()

    def fail(self, why: str) -> None:
        """The peer is gone."""
        self._outbox.fail(why)

    async def write_all(self) -> None:
        """Writes until the session is over or the stream is given up. For the handler's own task."""
        try:
            async with asyncio.timeout(None) as self._writing:
                while (event := await self._outbox.next()) is not None:
                    await self._context.write(self._encoded(event))
        except TimeoutError:
            if not self.failure:
                raise
        finally:
            self._writing = None
            self._outbox.dispose()

    def _encoded(self, event: ServerEvent) -> bytes:
        if isinstance(event, ReplyAudio) and self._encoder is not None:
            whole = event.pcm.ljust(frame_bytes(self.hello.output_rate), b"\0")
            return wire.server_message(event, self._encoder.encode(whole)).SerializeToString()
        message = wire.server_message(event)
        if isinstance(event, Ready):
            message = wire.with_encodings(message, self._opening)
        return message.SerializeToString()

    async def _read(self) -> bytes:
        if self.failure:
            raise ConnectionError(self.failure)
        try:
            raw: Any = await self._context.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # grpc.aio tells a reader with this that the client cancelled; it must not end the session's task.
            raise ConnectionError("the client cancelled the stream") from None
        except (grpc.RpcError, grpc.aio.AbortError, grpc.aio.UsageError, RuntimeError) as error:
            raise ConnectionError("the stream is over") from error
        if self.failure:
            raise ConnectionError(self.failure)
        if raw is grpc.aio.EOF:
            # A cancelled stream reads like an ended one at first; the cancel itself is right behind.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EOF_SETTLE_S):
                    await self._gone.wait()
            if self.failure or self._context.cancelled():
                raise ConnectionError(self.failure or "the client cancelled the stream")
            raise StopAsyncIteration
        assert isinstance(raw, bytes)
        return raw

    def _failed(self) -> None:
        self._gone.set()
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())
        self._on_gone()


class VoiceServer:
    """The gRPC server of `parley.v1`, with health and reflection."""

    def __init__(
        self,
        sessions: Serves,
        settings: SessionSettings,
        address: str,
        on_drop: Callable[[str, int], None] = lambda reason, frames: None,
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._address = address
        self._on_drop = on_drop
        self._serving: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> str:
        """Listen; returns host:port. Raises OSError when the address cannot be had."""
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                # Above our own limit, so that the clear refusal is ours; the rest never enters memory.
                ("grpc.max_receive_message_length", self._settings.max_message_bytes + 256 * 1024),
                # A peer that vanished without a word is noticed within 30 s.
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
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
            serving.cancel()

        connection = VoiceConnection(context, opening, self._settings, self._on_drop, gone)
        serving = asyncio.create_task(self._sessions.serve(connection))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        serving.add_done_callback(lambda _: connection.close())
        try:
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
            return wire.hello(_parsed(raw, self._settings), self._settings.max_text_chars)
        except (wire.BadMessage, _TooLarge) as error:
            await _abort(context, _status(error), str(error))

    async def _tell_outcome(self, serving: asyncio.Task[None], context: Context) -> None:
        if not serving.done() or serving.cancelled():
            return
        error = serving.exception()
        if error is None:
            return
        code = getattr(error, "code", None)
        if isinstance(code, str):
            status = grpc.StatusCode.RESOURCE_EXHAUSTED if code == "full" else grpc.StatusCode.UNAVAILABLE
            await _abort(context, status, f"{getattr(error, 'message', error)}")
        log.error("a session failed", exc_info=error)
        await _abort(context, grpc.StatusCode.INTERNAL, "internal error: the session ended; connect again")


class _TooLarge(ValueError):
    """A message beyond `session.max_message_bytes`."""


def _status(error: Exception) -> grpc.StatusCode:
    return (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        if isinstance(error, _TooLarge)
        else grpc.StatusCode.INVALID_ARGUMENT
    )


def _parsed(raw: bytes, settings: SessionSettings) -> pb.ClientMessage:
    if len(raw) > settings.max_message_bytes:
        raise _TooLarge(
            f"the message has {len(raw)} bytes, {settings.max_message_bytes} are allowed; send audio in pieces of 20 to 100 ms"
        )
    try:
        return pb.ClientMessage.FromString(raw)
    except DecodeError as error:
        raise wire.BadMessage(
            "the message is not a parley.v1.ClientMessage; check the client's proto file"
        ) from error


async def _abort(context: Context, status: grpc.StatusCode, text: str) -> NoReturn:
    try:
        async with asyncio.timeout(_ABORT_S):
            await context.abort(status, text)
    except TimeoutError:
        # The client reads nothing, not even its status; the connection's keepalive or its end frees the rest.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")
