"""The Converse servicer over a real grpc.aio server, with sessions that do as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.audio.opus import OpusDecoder, OpusEncoder
from gateway.protocol import voice_pb2 as pb
from gateway.session.events import (
    AudioIn,
    ClientEvent,
    Closed,
    Connection,
    Ready,
    ReplyAudio,
    State,
    StateChanged,
    TextIn,
)
from gateway.settings import SessionSettings
from gateway.transports.voice_grpc import VoiceServer

START = pb.ClientMessage(start=pb.Start())
Script = Callable[[Connection], Awaitable[None]]
Call = grpc.aio.StreamStreamCall[bytes, bytes]


class Refusal(Exception):
    def __init__(self, code: str, message: str, retryable: bool) -> None:
        self.code, self.message, self.retryable = code, message, retryable


class ScriptedSessions:
    """Runs the test's script as the session, in a task of its own, as the real manager does."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.ended: list[str] = []
        self.over = asyncio.Event()

    async def serve(self, connection: Connection) -> None:
        try:
            await self._script(connection)
            self.ended.append("end of input")
        except ConnectionError as error:
            self.ended.append(str(error))
        except asyncio.CancelledError:
            self.ended.append("peer gone")
            raise
        finally:
            self.over.set()


async def echo_events(connection: Connection) -> None:
    """Answers a text with its length in a state, until the input ends."""
    hello = connection.hello
    connection.send(Ready("s1", hello.input_rate, hello.output_rate, "en-US", ""))
    async for event in connection.events():
        if isinstance(event, TextIn):
            connection.send(StateChanged(State.SPEAKING))
    connection.send(Closed("client"))


def recorder(into: list[ClientEvent]) -> Script:
    async def script(connection: Connection) -> None:
        into.extend([event async for event in connection.events()])

    return script


@asynccontextmanager
async def serving(
    script: Script, settings: SessionSettings | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, ScriptedSessions]]:
    sessions = ScriptedSessions(script)
    server = VoiceServer(sessions, settings or SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            yield channel, sessions
    finally:
        await server.stop(0)
    left = [
        t for t in asyncio.all_tasks() if t is not asyncio.current_task() and "serve" in repr(t.get_coro())
    ]
    assert not left, left


def converse(channel: grpc.aio.Channel) -> Call:
    return channel.stream_stream("/parley.v1.Voice/Converse")()


async def say(call: Call, *messages: pb.ClientMessage) -> None:
    for message in messages:
        await call.write(message.SerializeToString())


async def hear(call: Call) -> pb.ServerMessage:
    raw = await call.read()
    assert isinstance(raw, bytes), "the stream ended"
    return pb.ServerMessage.FromString(raw)


async def refused(call: Call) -> tuple[grpc.StatusCode, str]:
    """The status of a stream that must end without another message."""
    try:
        while (raw := await call.read()) is not grpc.aio.EOF:
            assert isinstance(raw, bytes)
    except grpc.RpcError:
        pass
    return await call.code(), await call.details()


async def test_a_session_is_served_and_a_clean_end_of_input_ends_it_with_ok() -> None:
    async with serving(echo_events) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        ready = (await hear(call)).ready
        assert (ready.input.sample_rate, ready.output.sample_rate) == (16_000, 24_000)
        assert (ready.input.encoding, ready.output.encoding) == (pb.PCM16, pb.PCM16)
        await say(call, pb.ClientMessage(text=pb.Text(text="hello")))
        assert (await hear(call)).state.state == pb.SPEAKING
        await call.done_writing()
        assert (await hear(call)).closed.reason == "client"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK
        assert sessions.ended == ["end of input"]


FIRST = {
    "text first": (pb.ClientMessage(text=pb.Text(text="hi")).SerializeToString(), "must be `start`"),
    "unknown rate": (
        pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(sample_rate=1))).SerializeToString(),
        "send one of 8000",
    ),
    "empty": (b"", "must be `start`"),
    "not protobuf": (b"\xff\xff\xff", "check the client's proto file"),
    "bad UTF-8": (b"\x0a\x03\x0a\x01\xff", "check the client's proto file"),
}


@pytest.mark.parametrize("name", FIRST)
async def test_non_start_first_message_is_invalid_argument(name: str) -> None:
    raw, says = FIRST[name]
    async with serving(echo_events) as (channel, sessions):
        call = converse(channel)
        await call.write(raw)
        code, details = await refused(call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert says in details
        assert sessions.ended == [], "no session may exist"


async def test_handshake_timeout_closes_a_half_open_stream() -> None:
    async with serving(echo_events, SessionSettings(handshake_s=0.05)) as (channel, _):
        code, details = await refused(converse(channel))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "send it as the first message" in details


async def test_a_stream_that_ends_before_its_start_is_told_so() -> None:
    async with serving(echo_events) as (channel, _):
        call = converse(channel)
        await call.done_writing()
        assert (await refused(call))[0] == grpc.StatusCode.INVALID_ARGUMENT


LATER = {
    "second start": (START.SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT, "sent twice"),
    "empty oneof": (b"", grpc.StatusCode.INVALID_ARGUMENT, "empty or of a kind"),
    "not protobuf": (b"\x0a\xff", grpc.StatusCode.INVALID_ARGUMENT, "check the client's proto file"),
    "long text": (
        pb.ClientMessage(text=pb.Text(text="x" * 8_001)).SerializeToString(),
        grpc.StatusCode.INVALID_ARGUMENT,
        "8001 characters",
    ),
    "oversize": (
        pb.ClientMessage(audio=bytes(300_000)).SerializeToString(),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "20 to 100 ms",
    ),
    "far oversize": (
        pb.ClientMessage(audio=bytes(3_000_000)).SerializeToString(),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "524288 are allowed",
    ),
}


@pytest.mark.parametrize("name", LATER)
async def test_bad_message_in_mid_session_is_refused_and_the_session_cleaned_up(name: str) -> None:
    raw, status, says = LATER[name]
    async with serving(echo_events) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        await hear(call)
        await call.write(raw)
        code, details = await refused(call)
        assert (code, says in details) == (status, True), details
        async with asyncio.timeout(5):
            await sessions.over.wait()
        assert sessions.ended != ["end of input"]


async def test_client_cancel_tells_the_session() -> None:
    async with serving(echo_events) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        await hear(call)
        call.cancel()
        async with asyncio.timeout(5):
            await sessions.over.wait()
        assert sessions.ended[0] != "end of input"


async def test_client_cancel_after_its_end_of_input_tells_the_session_too() -> None:
    async def listens_on(connection: Connection) -> None:
        connection.send(Ready("s1", 16_000, 24_000, "en-US", ""))
        async for _ in connection.events():
            pass
        connection.send(StateChanged(State.SPEAKING))
        await asyncio.Event().wait()

    async with serving(listens_on) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        await call.done_writing()
        assert (await hear(call)).ready
        assert (await hear(call)).state.state == pb.SPEAKING
        call.cancel()
        async with asyncio.timeout(5):
            await sessions.over.wait()
        assert sessions.ended == ["peer gone"]


async def test_a_vanished_connection_tells_the_session() -> None:
    async with serving(echo_events) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        await hear(call)
        await channel.close(grace=None)
        async with asyncio.timeout(5):
            await sessions.over.wait()
        assert sessions.ended[0] != "end of input"


async def test_a_client_that_stops_reading_is_closed_and_others_are_not() -> None:
    async def talks(connection: Connection) -> None:
        connection.send(Ready("s1", 16_000, 48_000, "en-US", ""))
        if connection.hello.output_rate == 24_000:
            async for _ in connection.events():
                connection.send(StateChanged(State.SPEAKING))
            return
        sequence = 0
        while True:
            for _ in range(500):
                connection.send(ReplyAudio("r1", 1, sequence, sequence * 20, bytes(1_920)))
                sequence += 1
            assert connection.backlog_ms() <= 2_100, "memory must stay bounded"
            await asyncio.sleep(0.01)

    settings = SessionSettings(slow_client_s=0.3)
    async with serving(talks, settings) as (channel, sessions):
        slow, lively = converse(channel), converse(channel)
        await say(slow, pb.ClientMessage(start=pb.Start(output=pb.AudioFormat(sample_rate=48_000))))
        await say(lively, START)
        await hear(lively)
        async with asyncio.timeout(10):
            await sessions.over.wait()
        assert sessions.ended == ["peer gone"]
        await say(lively, pb.ClientMessage(commit=pb.Commit()))
        assert (await hear(lively)).state.state == pb.SPEAKING
        code, details = await refused(slow)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "slow client" in details
        await lively.done_writing()
        await refused(lively)


async def test_a_reader_that_the_session_gave_up_does_not_harm_the_stream() -> None:
    async def impatient(connection: Connection) -> None:
        events = aiter(connection.events())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)
        connection.send(Closed("idle"))

    async with serving(impatient) as (channel, _):
        call = converse(channel)
        await say(call, START)
        assert (await hear(call)).closed.reason == "idle"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal("full", "200 sessions are open; try again later", True), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Refusal("shutdown", "shutting down; connect again", True), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_refused_session_has_a_status_and_a_text(refusal: Refusal, status: grpc.StatusCode) -> None:
    async def refuse(connection: Connection) -> None:
        raise refusal

    async with serving(refuse) as (channel, _):
        call = converse(channel)
        await say(call, START)
        assert await refused(call) == (status, refusal.message)


async def test_a_session_that_breaks_says_internal_and_no_more() -> None:
    async def breaks(connection: Connection) -> None:
        raise KeyError("secret")

    async with serving(breaks) as (channel, _):
        call = converse(channel)
        await say(call, START)
        code, details = await refused(call)
        assert code == grpc.StatusCode.INTERNAL
        assert "secret" not in details


async def test_opus_is_decoded_and_encoded_by_the_transport() -> None:
    heard: list[ClientEvent] = []

    async def script(connection: Connection) -> None:
        connection.send(Ready("s1", 16_000, 24_000, "en-US", ""))
        heard.extend([event async for event in connection.events()])
        for n in range(5):
            connection.send(ReplyAudio("r1", 1, n, n * 20, b"\x10\x20" * 480))
        connection.send(ReplyAudio("r1", 1, 5, 100, b"\x10\x20" * 100))

    opus = pb.AudioFormat(encoding=pb.OPUS, sample_rate=16_000)
    opus_out = pb.AudioFormat(encoding=pb.OPUS, sample_rate=24_000)
    async with serving(script) as (channel, _):
        call = converse(channel)
        await say(call, pb.ClientMessage(start=pb.Start(input=opus, output=opus_out)))
        ready = (await hear(call)).ready
        assert (ready.input, ready.output) == (opus, opus_out)
        encoder, decoder = OpusEncoder(16_000), OpusDecoder(24_000)
        for _ in range(10):
            await say(call, pb.ClientMessage(audio=encoder.encode(b"\x00\x10" * 320)))
        await call.done_writing()
        pcm = b"".join([decoder.decode((await hear(call)).reply_audio.audio) for _ in range(6)])
        assert await call.read() is grpc.aio.EOF
    sent = sum(len(e.pcm) for e in heard if isinstance(e, AudioIn))
    assert abs(sent - 10 * 640) <= 3 * 32, "ten frames of 20 ms, but for the resampler's delay"
    assert abs(len(pcm) - 6 * 960) <= 3 * 48


async def test_what_is_no_opus_packet_is_refused() -> None:
    async with serving(echo_events) as (channel, _):
        call = converse(channel)
        start = pb.Start(input=pb.AudioFormat(encoding=pb.OPUS, sample_rate=48_000))
        await say(call, pb.ClientMessage(start=start))
        await hear(call)
        await say(call, pb.ClientMessage(audio=b""))
        code, details = await refused(call)
        assert (code, "Opus packet" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_odd_and_empty_audio_messages_reach_the_session_as_they_are() -> None:
    heard: list[ClientEvent] = []
    async with serving(recorder(heard)) as (channel, _):
        call = converse(channel)
        await say(call, START, *[pb.ClientMessage(audio=a) for a in (b"", b"\x01", b"\x02\x03\x04")])
        await call.done_writing()
        await refused(call)
    assert heard == [AudioIn(b"\x01"), AudioIn(b"\x02\x03\x04")]


async def test_a_second_server_cannot_take_the_same_address() -> None:
    server = VoiceServer(ScriptedSessions(echo_events), SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    try:
        with pytest.raises(OSError, match=f"cannot listen on {address}"):
            await VoiceServer(ScriptedSessions(echo_events), SessionSettings(), address).start()
    finally:
        await server.stop(0)


async def test_health_and_reflection_name_the_service() -> None:
    async with serving(echo_events) as (channel, _):
        for service in ("", "parley.v1.Voice"):
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service)
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {s.name for s in (await call.read()).list_services_response.service}
        assert "parley.v1.Voice" in names
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="parley.v1.Voice"))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()


async def test_stop_ends_open_streams_after_the_grace() -> None:
    sessions = ScriptedSessions(echo_events)
    server = VoiceServer(sessions, SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = converse(channel)
        await say(call, START)
        await hear(call)
        await server.stop(0.1)
        assert sessions.over.is_set()
        code, _ = await refused(call)
        assert code != grpc.StatusCode.OK
