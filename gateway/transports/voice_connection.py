"""One Converse stream as a session sees it: events in, an outbox out, Opus on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gateway.audio.opus import OpusDecoder, OpusEncoder
from gateway.audio.pcm import frame_bytes
from gateway.http2.call import Call, CallOver
from gateway.protocol import voice_pb2 as pb
from gateway.session.events import AudioIn, ClientEvent, Closed, Hello, Ready, ReplyAudio, ServerEvent
from gateway.settings import SessionSettings
from gateway.transports import voice_wire as wire
from gateway.transports.outbox import Outbox
from gateway.transports.pulse import Ping, Pong
from gateway.transports.voice_audio import audio_alone, reply_audio

_PING_S = 0.02
"""A client that pings faster than this is read more slowly."""


class VoiceConnection:
    """The session's view of one stream."""

    def __init__(
        self,
        call: Call,
        opening: wire.Opening,
        settings: SessionSettings,
        on_drop: Callable[[str, int], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._call = call
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
        self._too_slow = True
        self._fell_silent = False
        self._revoked = False
        self.on_audio: Callable[[bytes], bool] | None = None
        """See `events.PushesAudio`."""
        if self._decoder is None:
            call.sink = self._offer
        self.heard = self.spoken = self.answers = False
        """For the server's `Pulse`."""
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
            if (
                self._decoder is None
                and len(raw) <= self._settings.max_message_bytes
                and (audio := audio_alone(raw))
            ):
                return AudioIn(audio)
            try:
                event = wire.client_event(parsed(raw, self._settings), self._settings.max_text_chars)
                if isinstance(event, AudioIn):
                    if self._decoder is not None:
                        event = AudioIn(self._decoder.decode(event.pcm))
                    if not event.pcm:
                        continue
                elif isinstance(event, Ping | Pong):
                    await self._on_pulse(event)
                    continue
            except (wire.BadMessage, ValueError) as error:
                self.refusal = status_of(error), str(error)
                self.fail(str(error))
                raise ConnectionError(str(error)) from error
            return event

    def _offer(self, raw: bytes) -> bool:
        if self.on_audio is None or self.failure or len(raw) > self._settings.max_message_bytes:
            return False
        audio = audio_alone(raw)
        if not audio or not self.on_audio(audio):
            return False
        self.heard = True
        return True

    def send(self, event: ServerEvent) -> None:
        if (
            type(event) is ReplyAudio
            and self._encoder is None
            and self._outbox.idle
            and self._call.write_now(reply_audio(event))
        ):  # as nearly always: no queue, and no task to wake
            self.spoken = True
        else:
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

    @property
    def lost(self) -> Closed:
        """The same, as the session's end."""
        if self._fell_silent:
            return Closed("lost", self.failure, retryable=True)
        if self._revoked:
            return Closed("revoked", self.failure)
        return Closed("slow_client" if self._too_slow else "client", self.failure)

    def fail(self, why: str) -> None:
        """The peer is gone."""
        self._too_slow = self._too_slow and bool(self.failure)
        self._outbox.fail(why)

    def turn_out(self, why: str) -> None:
        """The client may not be here any more."""
        self._revoked = True
        self.fail(why)

    def ping(self, ping: Ping) -> None:
        """For the server's `Pulse`."""
        self._outbox.put(ping)

    def give_up(self, why: str) -> None:
        """For the server's `Pulse`: the client is gone without a word."""
        if not self.failure:
            self._fell_silent = True
            self.refusal = grpc.StatusCode.UNAVAILABLE, f"closed as lost: {why}; connect again"
            self.fail(why)

    async def write_all(self) -> None:
        """Writes until the session is over or the stream is given up. For the handler's own task."""
        try:
            async with asyncio.timeout(None) as self._writing:
                outbox, write, encoded = self._outbox, self._call.write, self._encoded
                while True:
                    event = outbox.take()
                    if event is not None:
                        await write(encoded(event))
                        self.spoken = True
                    elif outbox.over:
                        break
                    else:
                        await outbox.news()
        except TimeoutError:
            if not self.failure:
                raise
        finally:
            self._writing = None
            self._outbox.dispose()

    async def _on_pulse(self, event: Ping | Pong) -> None:
        self.answers = True
        if isinstance(event, Ping):
            self._outbox.put(Pong(event.nonce))
            await asyncio.sleep(_PING_S)

    def _encoded(self, event: ServerEvent | Ping | Pong) -> bytes:
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
            raw: bytes | Any = self._call.take() if self._call.waiting else await self._call.read()
        except CallOver as error:
            raise ConnectionError(self.failure or str(error)) from None
        if self.failure:
            raise ConnectionError(self.failure)
        if raw is grpc.aio.EOF:
            self.answers = False  # from here on it cannot
            raise StopAsyncIteration
        self.heard = True
        return bytes(raw)

    def _failed(self) -> None:
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())
        self._on_gone()


class TooLarge(ValueError):
    """A message beyond `session.max_message_bytes`."""


def status_of(error: Exception) -> grpc.StatusCode:
    return (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        if isinstance(error, TooLarge)
        else grpc.StatusCode.INVALID_ARGUMENT
    )


def parsed(raw: bytes, settings: SessionSettings) -> pb.ClientMessage:
    if len(raw) > settings.max_message_bytes:
        raise TooLarge(
            f"the message has {len(raw)} bytes, {settings.max_message_bytes} are allowed; send audio in pieces of 20 to 100 ms"
        )
    try:
        return pb.ClientMessage.FromString(raw)
    except DecodeError as error:
        raise wire.BadMessage(
            "the message is not a parley.v1.ClientMessage; check the client's proto file"
        ) from error
