"""Audio in whatever clothes it comes: raw or in a container, whole or in pieces, to int16 mono."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

import numpy as np

from gateway.audio.flac import FlacDecoder
from gateway.audio.ogg_opus import OggOpusDecoder
from gateway.audio.pcm import Int16
from gateway.audio.resample import MAX_RATE, MIN_RATE
from gateway.audio.samples import ALAW, MULAW, S16, BadAudio, SampleStream
from gateway.audio.wav import WavDecoder

__all__ = ["AudioDecoder", "BadAudio", "Encoding", "decode_file"]

_LONGEST_MAGIC = 12
_PIECE = 1 << 16


class Encoding(StrEnum):
    """What a client says it sends. A WAV, FLAC or Ogg header in the stream wins over it."""

    AUTO = "unspecified"
    LINEAR_PCM = "LINEAR_PCM"
    MULAW = "MULAW"
    ALAW = "ALAW"
    FLAC = "FLAC"
    OGG_OPUS = "OGGOPUS"


class _Decoder(Protocol):
    rate: int

    def feed(self, data: bytes) -> Iterator[Int16]: ...
    def flush(self) -> Iterator[Int16]: ...


class AudioDecoder:
    """Push bytes in pieces of any length, get int16 [n] of the first channel at `rate` Hz.

    `encoding`, `rate` (Hz) and `channels` describe raw audio; a container's header wins over them.
    The iterators decode as they are consumed, so memory stays bounded by one message.
    """

    def __init__(
        self, encoding: Encoding = Encoding.AUTO, rate: int = 0, channels: int = 1, *, whole: bool = False
    ) -> None:
        """`whole`: a file; one that ends early is refused where the format lets that be seen."""
        self._encoding = encoding
        self._declared_rate = rate
        self._channels = max(1, channels)
        self._whole = whole
        self._first = b""
        self._decoder: _Decoder | None = None

    @property
    def rate(self) -> int:
        """Hz of what comes out: right from the first audio on, 0 while it is not known yet."""
        return self._decoder.rate if self._decoder else 0

    def feed(self, data: bytes) -> Iterator[Int16]:
        """Non-empty pieces, in order. Raises BadAudio for what cannot be decoded."""
        if self._decoder is None:
            self._first += data
            if not self._first or _may_become_magic(self._first):
                return
            data, self._first = self._first, b""
            self._decoder = self._choose(data)
        yield from self._checked(self._decoder, self._decoder.feed(data))

    def flush(self) -> Iterator[Int16]:
        """What the end of the stream completes. Raises BadAudio for a stream that ends too early."""
        if self._decoder is None:
            if not self._first:
                return
            self._decoder = self._choose(self._first)
            yield from self._checked(self._decoder, self._decoder.feed(self._first))
        yield from self._checked(self._decoder, self._decoder.flush())

    def _checked(self, decoder: _Decoder, pieces: Iterator[Int16]) -> Iterator[Int16]:
        for piece in pieces:
            if not MIN_RATE <= decoder.rate <= MAX_RATE:
                raise BadAudio(_bad_rate(decoder.rate))
            yield piece

    def _choose(self, first: bytes) -> _Decoder:
        if first[:4] == b"RIFF":
            return WavDecoder()
        if first[:4] == b"fLaC":
            return FlacDecoder(whole=self._whole)
        if first[:4] == b"OggS":
            return OggOpusDecoder()
        if self._encoding is Encoding.FLAC:
            raise BadAudio("the audio is declared as FLAC but does not begin with a FLAC header")
        if self._encoding is Encoding.OGG_OPUS:
            raise BadAudio("the audio is declared as OGGOPUS but does not begin with an Ogg page")
        if not MIN_RATE <= self._declared_rate <= MAX_RATE:
            raise BadAudio(_bad_rate(self._declared_rate))
        return _RawDecoder(self._encoding, self._declared_rate, self._channels)


class _RawDecoder:
    def __init__(self, encoding: Encoding, rate: int, channels: int) -> None:
        self.rate = rate
        form = {Encoding.MULAW: MULAW, Encoding.ALAW: ALAW}.get(encoding, S16)
        self._samples = SampleStream(form, channels)

    def feed(self, data: bytes) -> Iterator[Int16]:
        for start in range(0, len(data), _PIECE):
            samples = self._samples.feed(data[start : start + _PIECE])
            if samples.size:
                yield samples

    def flush(self) -> Iterator[Int16]:
        return iter(())


def _may_become_magic(first: bytes) -> bool:
    """Too short to tell a container from raw audio, and so far like a container."""
    if len(first) >= _LONGEST_MAGIC:
        return False
    return any(magic.startswith(first[:4]) for magic in (b"RIFF", b"fLaC", b"OggS"))


def _bad_rate(rate: int) -> str:
    return f"Invalid sample rate {rate} Hz: use {MIN_RATE} to {MAX_RATE} Hz"


def decode_file(
    data: bytes,
    encoding: Encoding = Encoding.AUTO,
    rate: int = 0,
    channels: int = 1,
    *,
    max_s: float = 3600.0,
) -> tuple[Int16, int]:
    """A whole recording: int16 [n] of the first channel, and its rate in Hz (0 for no audio at all).

    Raises BadAudio, also for audio longer than `max_s` seconds.
    """
    decoder = AudioDecoder(encoding, rate, channels, whole=True)
    pieces: list[Int16] = []
    total = 0
    for source in (decoder.feed(data), decoder.flush()):
        for piece in source:
            pieces.append(piece)
            total += piece.size
            if total > max_s * decoder.rate:
                raise BadAudio(
                    f"the audio is longer than {max_s:.0f} seconds: send it in parts, or stream it"
                )
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.int16)), decoder.rate
