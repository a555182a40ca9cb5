"""What a connection reads without a parser is what the parser would have read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import voice_pb2 as pb
from gateway.transports.voice_audio import audio_alone


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
