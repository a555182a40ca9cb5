"""RIFF/WAVE read as it arrives: the header may come in any number of pieces."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from gateway.audio.pcm import Int16
from gateway.audio.samples import (
    ALAW,
    F32,
    F64,
    MULAW,
    S16,
    S24,
    S32,
    U8,
    BadAudio,
    SampleFormat,
    SampleStream,
)

_FORMATS: dict[tuple[int, int], SampleFormat] = {
    (1, 8): U8,
    (1, 16): S16,
    (1, 24): S24,
    (1, 32): S32,
    (3, 32): F32,
    (3, 64): F64,
    (6, 8): ALAW,
    (7, 8): MULAW,
}
_EXTENSIBLE = 0xFFFE
_LONGEST_FMT = 4096
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""What writers put in the data chunk when they do not know its length yet."""
_MOST_CHANNELS = 64
_LONGEST_PIECE = 1 << 16
"""Bytes decoded at a time, so that the consumer decides how fast a long message is worked off."""


class WavDecoder:
    """Push bytes, get the first channel as int16 at the header's rate."""

    def __init__(self) -> None:
        self.rate = 0
        """Hz; 0 until the header is complete."""
        self._head = bytearray()
        self._riff_read = False
        self._skip = 0
        self._samples: SampleStream | None = None
        self._left = 0
        self._in_data = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Int16]:
        """Audio as it is complete. Raises BadAudio."""
        if not self._in_data:
            data = self._header(data)
        for start in range(0, len(data), _LONGEST_PIECE):
            if self._ended or self._samples is None:
                return
            piece = data[start : start + min(_LONGEST_PIECE, self._left)]
            self._left -= len(piece)
            self._ended = self._left == 0
            out = self._samples.feed(piece)
            if out.size:
                yield out

    def flush(self) -> Iterator[Int16]:
        """Raises BadAudio when the stream ended inside the header."""
        if not self._in_data:
            raise BadAudio("the WAV file ends inside its header: send the whole file")
        return iter(())

    def _header(self, data: bytes) -> bytes:
        """Consumes chunks up to the audio; what is left of `data` is audio."""
        self._head += data
        while True:
            if self._skip:
                dropped = min(self._skip, len(self._head))
                del self._head[:dropped]
                self._skip -= dropped
                if self._skip:
                    return b""
            if not self._riff_read:
                if len(self._head) < 12:
                    return b""
                if self._head[8:12] != b"WAVE":
                    raise BadAudio("the RIFF file is not a WAVE file: send WAV, FLAC, Ogg Opus or raw audio")
                del self._head[:12]
                self._riff_read = True
            if len(self._head) < 8:
                return b""
            kind, size = bytes(self._head[:4]), struct.unpack_from("<I", self._head, 4)[0]
            if kind == b"data":
                return self._begin(size)
            if kind == b"fmt ":
                if not 16 <= size <= _LONGEST_FMT:
                    raise BadAudio(f"the WAV header is damaged: its format chunk claims {size} bytes")
                if len(self._head) < 8 + size:
                    return b""
                self._read_format(bytes(self._head[8 : 8 + size]))
            self._skip = 8 + size + size % 2

    def _begin(self, size: int) -> bytes:
        if self._samples is None:
            raise BadAudio("the WAV header is damaged: the data comes before the format")
        self._left = (1 << 62) if size in _UNKNOWN_SIZES else size
        self._in_data = True
        rest = bytes(self._head[8:])
        self._head.clear()
        return rest

    def _read_format(self, body: bytes) -> None:
        tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
        if tag == _EXTENSIBLE and len(body) >= 26:
            tag = struct.unpack_from("<H", body, 24)[0]
        form = _FORMATS.get((tag, bits))
        if form is None:
            raise BadAudio(
                f"WAV with format {tag} of {bits} bits is not supported: "
                "use PCM of 8 to 32 bits, float, mu-law or A-law"
            )
        if not 1 <= channels <= _MOST_CHANNELS or rate == 0:
            raise BadAudio(f"the WAV header is damaged: {channels} channels at {rate} Hz")
        self.rate = rate
        self._samples = SampleStream(form, channels)
