"""Raw Opus packets (no container) to PCM16 and back, through libopus in PyAV."""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.codec.context import CodecContext

from gateway.audio.pcm import FRAME_MS, Int16, frame_bytes, to_int16
from gateway.audio.resample import Resampler

_NATIVE_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_DECODED_RATE = 48_000
"""Whatever was encoded, the decoder speaks 48 kHz."""
MAX_PACKET = 1275 * 6
"""Bytes: six 20 ms frames, the most that 120 ms can hold."""


class OpusDecoder:
    """One stream of packets in order; PCM16 mono at `rate` Hz out."""

    def __init__(self, rate: int) -> None:
        self._resampler = Resampler(_DECODED_RATE, rate)
        self._codec = CodecContext.create("libopus", "r")
        self._codec.sample_rate = _DECODED_RATE
        self._codec.layout = "mono"

    def decode(self, packet: bytes) -> bytes:
        """The packet's PCM16. Raises ValueError for what is no Opus packet; the decoder stays usable."""
        if not packet:
            raise ValueError("an Opus packet must not be empty")
        if len(packet) > MAX_PACKET:
            raise ValueError(f"an Opus packet has at most {MAX_PACKET} bytes; got {len(packet)}")
        try:
            frames = self._codec.decode(av.Packet(packet))
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(
                f"not an Opus packet ({len(packet)} bytes): send one raw Opus packet per message"
            ) from error
        parts: list[Int16] = [self._resampler.push(_mono(frame)) for frame in frames]
        return b"".join(part.astype("<i2", copy=False).tobytes() for part in parts)


class OpusEncoder:
    """20 ms of PCM16 mono at `rate` Hz in, one packet out, each time."""

    def __init__(self, rate: int, bit_rate: int = 32_000) -> None:
        self.rate = rate
        self._coded_rate = rate if rate in _NATIVE_RATES else _DECODED_RATE
        self._frame = self._coded_rate * FRAME_MS // 1000
        self._resampler = Resampler(rate, self._coded_rate)
        # The resampler holds back about 1 ms: so much silence ahead makes every frame a whole packet.
        held_back = 0 if self._coded_rate == rate else self._frame // 5
        self._pending: Int16 = np.zeros(held_back, np.int16)
        self._codec = CodecContext.create("libopus", "w")
        self._codec.sample_rate = self._coded_rate
        self._codec.layout = "mono"
        self._codec.format = "s16"
        self._codec.bit_rate = bit_rate
        # Complexity 5 costs little more than half of 10 and is as good for speech.
        self._codec.options = {
            "application": "voip",
            "frame_duration": str(FRAME_MS),
            "compression_level": "5",
        }
        self._codec.open()

    def encode(self, pcm: bytes) -> bytes:
        """One packet for 20 ms of PCM16. Raises ValueError for any other length."""
        if len(pcm) != frame_bytes(self.rate):
            raise ValueError(f"an Opus frame takes {frame_bytes(self.rate)} bytes of PCM16; got {len(pcm)}")
        coded = self._resampler.push(to_int16(pcm))
        if self._pending.size:
            coded = np.concatenate([self._pending, coded])
        self._pending = coded[self._frame :]
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(coded[: self._frame]).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self._coded_rate
        return b"".join(bytes(packet) for packet in self._codec.encode(frame))


def _mono(frame: av.AudioFrame) -> Int16:
    samples = cast(Int16, frame.to_ndarray().ravel())
    channels = len(frame.layout.channels)
    if channels > 1:
        samples = samples.reshape(-1, channels).mean(axis=1).astype(np.int16)
    return samples
