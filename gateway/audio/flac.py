"""FLAC read as it arrives: split into frames by hand (RFC 9639), each decoded through PyAV.

FFmpeg's own frame parser looks ten frames ahead, two seconds of audio, and loses frames that come
in small pieces; here a frame is out as soon as the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext

from gateway.audio.pcm import Int16
from gateway.audio.samples import BadAudio

_STREAMINFO = 34
_LONGEST_HEADER = 16
_LONGEST_FRAME = 1 << 20
"""Bytes: 65,535 samples of stereo with 32 bits, and as much again."""


def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = ((value << 1) ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return bytes(table)


_CRC8 = _crc8_table()


class FlacDecoder:
    """Push bytes, get the first channel as int16 at the stream's rate, one frame late."""

    def __init__(self, *, whole: bool = False) -> None:
        """`whole`: a file that ends before its declared length is an error."""
        self.rate = 0
        """Hz; 0 until the stream info was read."""
        self._whole = whole
        self._buffer = bytearray()
        self._skip = 4
        self._codec: AudioCodecContext | None = None
        self._in_frames = False
        self._frame: _FrameHeader | None = None
        self._searched = 0
        self._declared = 0
        self._decoded = 0

    def feed(self, data: bytes) -> Iterator[Int16]:
        """Audio as it is complete. Raises BadAudio."""
        self._buffer += data
        if self._skip or not self._in_frames:
            self._read_metadata()
        while self._in_frames and not self._skip and (size := self._frame_size()):
            yield from self._decode(size)

    def flush(self) -> Iterator[Int16]:
        """The last frame. Raises BadAudio when nothing whole came, or `whole` was asked for and is not."""
        if self._skip or not self._in_frames:
            raise BadAudio("the FLAC stream ends inside its header: send the whole file")
        if self._buffer and self._frame is not None:
            try:
                yield from self._decode(len(self._buffer))
            except BadAudio:
                pass  # cut inside its last frame
        if not self._decoded and self._declared:
            raise BadAudio("the FLAC stream holds no whole frame: send the whole file")
        if self._whole and self._decoded < self._declared:
            raise BadAudio(
                f"the FLAC file ends after {self._decoded / self.rate:.1f} of "
                f"{self._declared / self.rate:.1f} seconds: send the whole file"
            )

    def _frame_size(self) -> int:
        """Bytes of the first frame in the buffer, 0 while its end is not in sight."""
        buffer = self._buffer
        if self._frame is None:
            if len(buffer) < _LONGEST_HEADER:
                return 0
            self._frame = _read_header(buffer, 0)
            if self._frame is None:
                raise BadAudio("the FLAC stream is damaged: no frame where one must begin")
            self._searched = 2
        sync = bytes(buffer[:2])
        while (at := buffer.find(sync, self._searched)) >= 0 and at + _LONGEST_HEADER <= len(buffer):
            following = _read_header(buffer, at)
            if following is not None and self._frame.leads_to(following):
                return at
            self._searched = at + 2
        if at < 0:
            self._searched = max(self._searched, len(buffer) - 1)
        if len(buffer) > _LONGEST_FRAME:
            raise BadAudio("the FLAC stream is damaged: a frame does not end")
        return 0

    def _decode(self, size: int) -> Iterator[Int16]:
        packet = av.Packet(bytes(self._buffer[:size]))
        del self._buffer[:size]
        self._frame = None
        try:
            frames = cast(AudioCodecContext, self._codec).decode(packet)
        except (av.FFmpegError, ValueError) as error:
            raise BadAudio("the FLAC stream is damaged: a frame cannot be decoded") from error
        for frame in frames:
            samples = _first_channel(frame)
            self._decoded += samples.size
            if samples.size:
                yield samples

    def _read_metadata(self) -> None:
        """Consumes the metadata blocks; what is left in the buffer then is frames."""
        while True:
            dropped = min(self._skip, len(self._buffer))
            del self._buffer[:dropped]
            self._skip -= dropped
            if self._skip or self._in_frames or len(self._buffer) < 4:
                return
            kind, size = self._buffer[0] & 0x7F, int.from_bytes(self._buffer[1:4], "big")
            if (self._codec is None) != (kind == 0) or (kind == 0 and size != _STREAMINFO):
                raise BadAudio("the FLAC header is damaged: it must begin with the stream info")
            if kind == 0:
                if len(self._buffer) < 4 + size:
                    return
                self._open(bytes(self._buffer[4 : 4 + size]))
            last = bool(self._buffer[0] & 0x80)
            self._skip = 4 + size
            if last:
                self._in_frames = True

    def _open(self, info: bytes) -> None:
        packed = int.from_bytes(info[10:18], "big")
        self.rate = packed >> 44
        self._declared = packed & ((1 << 36) - 1)
        if self.rate == 0:
            raise BadAudio("the FLAC header is damaged: its sample rate is 0")
        self._codec = CodecContext.create("flac", "r")
        self._codec.extradata = info


@dataclass(frozen=True, slots=True)
class _FrameHeader:
    by_samples: bool
    """`number` counts samples (variable block size), not frames."""
    number: int
    samples: int
    form: int
    """Codes of rate and sample size; the channel assignment changes from frame to frame."""

    def leads_to(self, other: _FrameHeader) -> bool:
        step = self.samples if self.by_samples else 1
        return other.form == self.form and other.number == self.number + step


def _read_header(data: bytearray, at: int) -> _FrameHeader | None:
    """The frame header at `at`, None where there is none; at least 16 bytes must follow."""
    if data[at] != 0xFF or data[at + 1] & 0xFE != 0xF8:
        return None
    size_code, rate_code = data[at + 2] >> 4, data[at + 2] & 0x0F
    first = data[at + 4]
    more = 0 if first < 0x80 else 7 - (first ^ 0xFF).bit_length()
    if first == 0xFF or more < 0 or (first >= 0x80 and more == 0) or size_code == 0 or rate_code == 15:
        return None
    number = first & (0x7F >> more)
    for byte in data[at + 5 : at + 5 + more]:
        number = number << 6 | byte & 0x3F
    end = at + 5 + more
    if size_code in (6, 7):
        width = size_code - 5
        samples = int.from_bytes(data[end : end + width], "big") + 1
        end += width
    elif size_code == 1:
        samples = 192
    else:
        samples = 576 << (size_code - 2) if size_code < 6 else 256 << (size_code - 8)
    end += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    check = 0
    for byte in data[at:end]:
        check = _CRC8[check ^ byte]
    if check != data[end]:
        return None
    return _FrameHeader(bool(data[at + 1] & 1), number, samples, rate_code << 8 | data[at + 3] & 0x0F)


def _first_channel(frame: av.AudioFrame) -> Int16:
    samples = frame.to_ndarray()
    if samples.dtype == np.int32:
        samples = np.right_shift(cast(npt.NDArray[np.int32], samples), 16).astype(np.int16)
    first = samples[0] if frame.format.is_planar else samples.ravel()[:: len(frame.layout.channels)]
    return cast(Int16, np.ascontiguousarray(first, np.int16))
