"""What a connection reads without a parser is what the parser would have read."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.call import Call
from gateway.protocol import voice_pb2 as pb
from gateway.session.events import Flushed, ReplyAudio, State, StateChanged
from gateway.settings import SessionSettings
from gateway.transports.voice_audio import audio_alone, reply_audio
from gateway.transports.voice_connection import VoiceConnection
from gateway.transports.voice_wire import hello, server_message


@given(st.integers(1, 16_383), st.integers(0, 255))
def test_messages_that_are_audio_alone_are_read_without_a_parser(size: int, byte: int) -> None:
    audio = bytes([byte]) * size
    assert audio_alone(pb.ClientMessage(audio=audio).SerializeToString()) == audio


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: b"\x12" + rest)))
def test_whatever_is_taken_for_audio_is(raw: bytes) -> None:
    audio = audio_alone(raw)
    if audio is not None:
        assert pb.ClientMessage.FromString(raw) == pb.ClientMessage(audio=audio)


def test_everything_else_is_left_to_the_parser() -> None:
    audio = pb.ClientMessage(audio=bytes(640)).SerializeToString()
    long = pb.ClientMessage(audio=bytes(16_384)).SerializeToString()
    text = pb.ClientMessage(text=pb.Text(text="hello")).SerializeToString()
    for raw in (
        b"",
        text,
        long,
        audio + text,
        audio[:-1],
        audio + audio,
        pb.ClientMessage(audio=b"").SerializeToString(),
    ):
        assert not audio_alone(raw)


number = st.integers(0, 2**62)


@given(st.text(), number, number, number, st.binary(max_size=20_000))
def test_reply_audio_is_written_as_the_protocols_own_code_would(
    reply: str, generation: int, sequence: int, offset_ms: int, pcm: bytes
) -> None:
    event = ReplyAudio(reply, generation, sequence, offset_ms, pcm)
    assert reply_audio(event) == server_message(event).SerializeToString()


async def test_audio_never_overtakes_what_waits() -> None:
    """Directly when nothing waits, through the outbox when something does; order as sent."""

    class Narrow:
        """Takes the first direct message, then none until the writer runs."""

        def __init__(self) -> None:
            self.wire: list[bytes] = []
            self.open = True

        def write_now(self, raw: bytes) -> bool:
            if self.open:
                self.wire.append(raw)
            return self.open

        async def write(self, raw: bytes) -> None:
            await asyncio.sleep(0)
            self.wire.append(raw)

    def audio(sequence: int, generation: int = 1) -> ReplyAudio:
        return ReplyAudio("r", generation, sequence, sequence * 20, b"\1\0" * 480)

    call = Narrow()
    opening = hello(pb.ClientMessage(start=pb.Start()), 100)
    connection = VoiceConnection(
        cast(Call, call), opening, SessionSettings(), lambda reason, frames: None, lambda: None
    )
    connection.send(audio(0))
    connection.send(StateChanged(State.SPEAKING))
    connection.send(audio(1))  # the event is not out yet
    writing = asyncio.create_task(connection.write_all())
    await connection.drained()
    connection.send(audio(2))
    call.open = False
    connection.send(audio(3))
    connection.send(audio(4))
    connection.send(Flushed(1, "r"))
    call.open = True
    connection.send(audio(5, generation=2))  # the flush is not out yet
    await connection.drained()
    connection.send(audio(6, generation=2))
    connection.close()
    await writing
    sent = [pb.ServerMessage.FromString(raw) for raw in call.wire]
    assert [
        message.reply_audio.sequence if message.HasField("reply_audio") else message.WhichOneof("message")
        for message in sent
    ] == [0, "state", 1, 2, "flushed", 5, 6]
