"""Sound files written as they are made: a listener can start while the end is not known yet."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import av
import numpy as np
from av.audio.stream import AudioStream

from gateway.audio.pcm import Int16

_UNKNOWN = 0xFFFFFFFF
"""What a WAV header says of a length that is not known yet."""


class Encoder(Protocol):
    """One file."""

    def encode(self, samples: Int16) -> bytes:
        """What int16 [n] completes; may be empty."""
        ...

    def close(self) -> bytes:
        """The rest. Nothing is encoded after it."""
        ...


@dataclass(frozen=True, slots=True)
class _Muxed:
    container: str
    codec: str
    bit_rate: int = 0
    """0: the codec's own."""
    options: Mapping[str, str] = field(default_factory=dict)


_MUXED = {
    # No Xing frame and no tags: both are written last, at the file's beginning.
    "mp3": _Muxed("mp3", "libmp3lame", 64_000, {"write_xing": "0", "id3v2_version": "0"}),
    "aac": _Muxed("adts", "aac", 64_000),
    "flac": _Muxed("flac", "flac"),
    # A page of at most 100 ms.
    "opus": _Muxed("ogg", "libopus", 32_000, {"page_duration": "100000"}),
}
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""Of every format there is."""


def make_encoder(form: str, rate: int) -> Encoder:
    """form: a key of MEDIA_TYPES. rate: Hz of the mono samples; for opus 8, 12, 16, 24 or 48 kHz.

    Raises ValueError for other formats.
    """
    if form == "pcm":
        return _Pcm()
    if form == "wav":
        return _Wav(rate)
    if form not in _MUXED:
        raise ValueError(f"{form!r} is no audio format: use one of {', '.join(MEDIA_TYPES)}")
    return OggOpusEncoder(rate) if form == "opus" else _File(_MUXED[form], rate)


class _Pcm:
    def encode(self, samples: Int16) -> bytes:
        return samples.astype("<i2", copy=False).tobytes()

    def close(self) -> bytes:
        return b""


class _Wav(_Pcm):
    def __init__(self, rate: int) -> None:
        form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
        self._head = (
            struct.pack("<4sI4s4sI", b"RIFF", _UNKNOWN, b"WAVE", b"fmt ", len(form))
            + form
            + struct.pack("<4sI", b"data", _UNKNOWN)
        )

    def encode(self, samples: Int16) -> bytes:
        head, self._head = self._head, b""
        return head + super().encode(samples)

    def close(self) -> bytes:
        head, self._head = self._head, b""
        return head


class _File:
    """Through FFmpeg's encoder and muxer."""

    def __init__(self, how: _Muxed, rate: int) -> None:
        self._sink = Sink()
        self._container = av.open(
            self._sink, "w", format=how.container, options={**how.options, "flush_packets": "1"}
        )
        self._stream = cast(AudioStream, self._container.add_stream(cast(Any, how.codec), rate=rate))
        self._stream.codec_context.layout = "mono"
        if how.bit_rate:
            self._stream.codec_context.bit_rate = how.bit_rate
        self._rate, self._written, self._closed = rate, 0, False

    def encode(self, samples: Int16) -> bytes:
        if samples.size:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout="mono"
            )
            frame.sample_rate = self._rate
            frame.pts = self._written
            self._written += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def close(self) -> bytes:
        if not self._closed:
            self._closed = True
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._sink.take()


class OggOpusEncoder(_File):
    """PCM16 mono at one of Opus' own rates in, bytes of one Ogg Opus stream out as pages fill."""

    RATES = (8_000, 12_000, 16_000, 24_000, 48_000)

    def __init__(self, rate: int) -> None:
        """Raises ValueError for a rate outside `RATES`."""
        if rate not in self.RATES:
            raise ValueError(f"Opus has no rate of {rate} Hz: use one of {self.RATES}")
        super().__init__(_MUXED["opus"], rate)


class Sink(io.RawIOBase):
    """Where a muxer writes: not seekable, so that it never goes back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(cast(bytes, data))
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since the last time."""
        joined = b"".join(self._parts)
        self._parts.clear()
        return joined
