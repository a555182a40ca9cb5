"""The two messages of which nearly all traffic is made, read and written without a parser."""

from __future__ import annotations

import functools

from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev

_AUDIO_TAG = pb.ClientMessage.AUDIO_FIELD_NUMBER << 3 | 2


def audio_alone(raw: bytes) -> bytes | None:
    """Of a message that is nothing but audio, as nearly all are: the audio; else None."""
    size = len(raw)
    if size < 3 or raw[0] != _AUDIO_TAG:
        return None
    if raw[1] < 0x80:  # the length, a varint of one byte or two: up to 16 kB
        return raw[2:] if size == raw[1] + 2 else None
    if raw[2] < 0x80:
        return raw[3:] if size == (raw[1] & 0x7F | raw[2] << 7) + 3 else None
    return None


def reply_audio(event: ev.ReplyAudio) -> bytes:
    """`server_message(event)` serialised. By hand: half of all messages are these."""
    pcm = event.pcm
    body = b"%b%b%b%b%b" % (
        _string(1, event.reply_id),
        _number(2, event.generation),
        _number(3, event.sequence),
        _number(4, event.offset_ms),
        b"\x2a" + _varint(len(pcm)) if pcm else b"",
    )
    return b"\x42%b%b%b" % (_varint(len(body) + len(pcm)), body, pcm)


@functools.lru_cache(256)
def _string(field: int, value: str) -> bytes:
    raw = value.encode()
    return bytes((field << 3 | 2,)) + _varint(len(raw)) + raw if raw else b""


def _number(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    """Of 0 or more."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
