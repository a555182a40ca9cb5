"""A parley.v1 client: events out and in, with the times they arrived.

Used by `parley talk`, the demo, the benchmarks and the tests. It speaks PCM16; times are the event
loop's clock in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from gateway.cli.player import Player
from gateway.http2.client import directly
from gateway.protocol import voice_pb2 as pb
from gateway.session.events import (
    AudioIn,
    ClientEvent,
    Close,
    Flushed,
    Hello,
    Ready,
    ReplyAudio,
    ResumeToken,
    ServerEvent,
    Truncate,
)
from gateway.tls.client import ClientSecurity
from gateway.transports import voice_wire as wire
from gateway.transports.pulse import Ping, Pong

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
"""Who calls is not known, or may not."""

T = TypeVar("T", ReplyAudio, Flushed)


class CallFailed(Exception):
    """The call could not be made or broke; `str()` is one sentence for a person."""

    def __init__(
        self, message: str, status: grpc.StatusCode | None = None, retry_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """gRPC's code, where there was one."""
        self.retry_s = retry_s
        """When to come again, where the server said so."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    """Loop time (s) at which the event came out of the wire."""
    event: ServerEvent


class VoiceClient:
    """`async with VoiceClient(address, hello) as client:`, then `async for arrival in client`.

    The player follows by itself: audio is played as it comes, a flush drops what was not heard and is
    answered with the position reached.
    """

    def __init__(
        self,
        address: str,
        hello: Hello | None = None,
        *,
        connect_s: float = 10.0,
        jitter_s: float = 0.0,
        keep_audio: bool = True,
        report_heard: bool = True,
        ping_s: float = 20.0,
        lost_s: float = 50.0,
        security: ClientSecurity | None = None,
        api_key: str = "",
    ) -> None:
        """ping_s: how often the server is pinged. lost_s: silence after which a server that answers pings is gone.
        api_key: shown to the gateway; "" shows none."""
        self._api_key = api_key
        self._security = security
        """TLS; None speaks in the clear."""
        self.address = address
        self.hello = hello or Hello()
        self._connect_s = connect_s
        self._report_heard = report_heard
        self.player = Player(self.hello.output_rate, jitter_s=jitter_s, keep=keep_audio)
        self._generations_from = 0
        self.ready: Ready | None = None
        self.token: bytes = b""
        """Goes on with this session on another connection (`Hello.resume`); empty before the first came."""
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._ended_input = False
        self._ping_s, self._lost_s = ping_s, lost_s
        self._pinging: asyncio.Task[None] | None = None
        self._pinged_at: dict[int, float] = {}
        self._reading_since: float | None = None
        self._server_answers = False
        self._fell_silent = False
        self.round_trip_s: float | None = None
        """From the last ping to its pong; None before the first."""

    async def __aenter__(self) -> VoiceClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> Ready:
        """Open the stream and shake hands. Raises CallFailed."""
        self._channel = self._open_channel()
        try:
            async with asyncio.timeout(self._connect_s):
                self._call = self._channel.stream_stream(
                    "/parley.v1.Voice/Converse",
                    request_serializer=pb.ClientMessage.SerializeToString,
                    response_deserializer=pb.ServerMessage.FromString,
                )(metadata=(("authorization", f"Bearer {self._api_key}"),) if self._api_key else None)
                await self._write(self._start())
                first = await self._receive()
        except TimeoutError:
            raise CallFailed(
                f"no answer from {self.address} within {self._connect_s:g} s; is Parley running there?",
                grpc.StatusCode.UNAVAILABLE,
            ) from None
        except (grpc.RpcError, grpc.aio.InternalError) as error:
            raise await self._failure() from error
        if first is None or not isinstance(first.event, Ready):
            raise CallFailed(f"{self.address} did not answer with `ready`; is it a Parley gateway?")
        self.ready = first.event
        self._pinging = asyncio.create_task(self._keep_pinging())
        return first.event

    def _open_channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, int | str]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            *directly(self.address),
        ]
        if self._security is None:
            return grpc.aio.insecure_channel(self.address, options=options)
        if self._security.name:
            options.append(("grpc.ssl_target_name_override", self._security.name))
        return grpc.aio.secure_channel(self.address, self._security.credentials(), options=options)

    async def send(self, event: ClientEvent | Ping | Pong) -> None:
        """Raises CallFailed when the stream is over."""
        async with self._writing:
            try:
                await self._write(wire.client_message(event))
            except (grpc.RpcError, grpc.aio.InternalError, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                raise await self._failure() from None

    async def _write(self, message: pb.ClientMessage) -> None:
        """Not the call's own `write`: into a call that has just failed it would put "Internal error from
        Core" in the place of the server's own status."""
        await self._call.wait_for_connection()
        await self._call._cython_call.send_serialized_message(message.SerializeToString())

    async def send_audio(self, pcm: bytes) -> None:
        """PCM16 at the session's input rate, any length. Raises CallFailed."""
        await self.send(AudioIn(pcm))

    async def end_input(self) -> None:
        """Nothing more will be said: a reply in progress ends, then the server closes."""
        if not self._ended_input:
            self._ended_input = True
            async with self._writing:
                try:
                    await self._call.done_writing()
                except (grpc.RpcError, grpc.aio.InternalError):
                    return  # over already

    async def hang_up(self, reason: str = "client hung up") -> None:
        """Close now. Raises CallFailed when the stream is over already."""
        await self.send(Close(reason))
        await self.end_input()

    def __aiter__(self) -> AsyncIterator[Arrival]:
        return self._arrivals()

    async def _arrivals(self) -> AsyncIterator[Arrival]:
        """Everything after `ready`, to the end of the stream. Raises CallFailed when it broke."""
        while (arrival := await self._receive()) is not None:
            event = arrival.event
            if isinstance(event, ResumeToken):
                self.token = event.token
                continue
            if isinstance(event, ReplyAudio):
                self.player.push(arrival.at, self._counted(event))
            elif isinstance(event, Flushed):
                self.player.flush(arrival.at, self._counted(event).generation)
                if self._report_heard and event.reply_id and not self._ended_input:
                    heard_ms = self.player.heard_ms(arrival.at, event.reply_id)
                    with contextlib.suppress(CallFailed):  # what the server still had to say is read first
                        await self.send(Truncate(event.reply_id, heard_ms))
            yield arrival

    def take_over(self, player: Player, generations_from: int) -> None:
        """Plays on with another client's player, whose generations were smaller."""
        self.player, self._generations_from = player, generations_from

    def _counted(self, event: T) -> T:
        if not self._generations_from:
            return event
        return replace(event, generation=event.generation + self._generations_from)

    async def close(self) -> None:
        """Cut the stream, if it is still open, and the connection."""
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait({self._pinging})
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            await self._channel.close(grace=None)

    def _start(self) -> pb.ClientMessage:
        hello = self.hello
        return pb.ClientMessage(
            start=pb.Start(
                session_id=hello.session_id,
                input=pb.AudioFormat(encoding=pb.PCM16, sample_rate=hello.input_rate),
                output=pb.AudioFormat(encoding=pb.PCM16, sample_rate=hello.output_rate),
                settings=wire.settings_message(hello.configure),
                lead_ms=hello.lead_ms,
                resume=hello.resume,
            )
        )

    async def _receive(self) -> Arrival | None:
        loop = asyncio.get_running_loop()
        while True:
            self._reading_since = loop.time()
            try:
                message = await self._call.read()
            except grpc.RpcError:
                raise await self._failure() from None
            except asyncio.CancelledError:
                if not self._fell_silent:
                    raise
                raise await self._failure() from None
            finally:
                self._reading_since = None
            now = loop.time()
            if message is grpc.aio.EOF:
                if await self._call.code() != grpc.StatusCode.OK:
                    raise await self._failure()
                return None
            event = wire.server_event(message)
            if isinstance(event, Ping | Pong):
                await self._on_pulse(event, now)
            elif event is not None:
                return Arrival(now, event)

    async def _on_pulse(self, event: Ping | Pong, now: float) -> None:
        if isinstance(event, Pong):
            self._server_answers = True
            asked_at = self._pinged_at.pop(event.nonce, None)
            if asked_at is not None:
                self.round_trip_s = now - asked_at
        elif not self._ended_input:
            with contextlib.suppress(CallFailed):  # what the server still had to say is read first
                await self.send(Pong(event.nonce))

    async def _keep_pinging(self) -> None:
        """Also notices a server that has gone without a word: then the call is cancelled."""
        loop = asyncio.get_running_loop()
        nonce = 0
        try:
            while not self._ended_input:
                await asyncio.sleep(self._ping_s)
                waiting_s = loop.time() - (self._reading_since or loop.time())
                if self._server_answers and waiting_s >= self._lost_s:
                    self._fell_silent = True
                    self._call.cancel()
                elif not self._ended_input:
                    nonce += 1
                    self._pinged_at = {nonce: loop.time()}
                    await self.send(Ping(nonce))
        except CallFailed:
            pass  # whoever reads or writes is told

    async def _failure(self) -> CallFailed:
        failure = await self._why()
        if self._call is not None and self._call.done():
            pushback = dict(await self._call.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "")
            if str(pushback).isdecimal():
                failure.retry_s = int(pushback) / 1000
        return failure

    async def _why(self) -> CallFailed:
        if self._fell_silent:
            return CallFailed(
                f"{self.address} fell silent: nothing came for {self._lost_s:g} s; connect again",
                grpc.StatusCode.UNAVAILABLE,
            )
        if self._call is None or not self._call.done():
            return CallFailed("the stream is closed")
        status, details = await self._call.code(), await self._call.details()
        if status == grpc.StatusCode.OK:
            return CallFailed("the server has ended the session", status)
        if status == grpc.StatusCode.UNAUTHENTICATED and not self._api_key:
            return CallFailed(
                f"{self.address} asks for an API key: give it with --api-key or PARLEY_API_KEY", status
            )
        if status == grpc.StatusCode.UNIMPLEMENTED:
            return CallFailed(f"{self.address} is a gRPC server, but not a Parley gateway", status)
        unreached = (
            status == grpc.StatusCode.UNAVAILABLE
            and self.ready is None
            and "failed to connect" in (details or "").lower()
        )
        if unreached and self._security is not None:
            return CallFailed(
                f"no TLS connection with {self.address}: {details}; check that it is up, the CA that signs its "
                "certificate, and whether it asks for one of ours",
                status,
            )
        if unreached:
            return CallFailed(f"nobody answers at {self.address}; start Parley with `parley up`", status)
        if status == grpc.StatusCode.UNAVAILABLE and not details:
            details = "the server went away"
        return CallFailed(f"{details or status.name} ({status.name})", status)
