"""PCM16, mono, little-endian on every wire, and the float32 that the signal code works on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

FRAME_MS = 20
"""Length of one frame on every wire."""
SILENCE_DBFS = -120.0
"""What `rms_dbfs` says of digital silence."""


def to_int16(pcm: bytes) -> Int16:
    """PCM16 bytes as int16 samples [n] (read-only). Raises ValueError on half a sample."""
    if len(pcm) % 2:
        raise ValueError(f"PCM16 audio has whole samples of 2 bytes; got {len(pcm)} bytes")
    return np.frombuffer(pcm, dtype="<i2").astype(np.int16, copy=False)


def to_float(pcm: bytes) -> Float:
    """PCM16 bytes as float32 [n], −1…1. Raises ValueError on half a sample."""
    return to_int16(pcm).astype(np.float32) * np.float32(1 / 32768)


def to_pcm(samples: npt.NDArray[np.float32] | npt.NDArray[np.float64] | Int16) -> bytes:
    """Samples [n] as PCM16 bytes: floats of −1…1 are scaled and clipped, NaN becomes 0; int16 goes as it is."""
    if samples.dtype == np.int16:
        return samples.astype("<i2", copy=False).tobytes()
    scaled = samples * np.float32(32768)
    if not math.isfinite(float(scaled.sum())):
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=32767.0, neginf=-32768.0)
    np.rint(scaled, out=scaled)
    # Not np.clip: for a few thousand samples its wrapper costs more than its work.
    np.minimum(scaled, 32767, out=scaled)
    np.maximum(scaled, -32768, out=scaled)
    return scaled.astype("<i2").tobytes()


class SampleCarry:
    """Whole samples out of byte chunks of any length: an odd byte waits for the next chunk."""

    def __init__(self) -> None:
        self._odd = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes that are complete samples now."""
        if self._odd:
            data = self._odd + data
            self._odd = b""
        if len(data) % 2:
            self._odd = data[-1:]
            return data[:-1]
        return data


def rms_dbfs(samples: npt.NDArray[np.float32]) -> float:
    """Level of float samples in dB below full scale; −120 for silence or nothing."""
    if not samples.size:
        return SILENCE_DBFS
    flat = samples.ravel()
    return power_dbfs(float(np.dot(flat, flat)) / flat.size)


def power_dbfs(power: float) -> float:
    """A mean square in dB below full scale; −120 for silence, and for NaN."""
    if not power > 1e-12:
        return SILENCE_DBFS
    return 10 * math.log10(power)


def frame_bytes(rate: int, ms: int = FRAME_MS) -> int:
    """Bytes of `ms` of mono PCM16 at `rate` Hz: 1,920 for 20 ms at 48 kHz."""
    return rate * ms // 1000 * 2


def silence(rate: int, ms: int) -> bytes:
    """`ms` of PCM16 zeros at `rate` Hz."""
    return bytes(frame_bytes(rate, ms))


def duration_ms(pcm: bytes, rate: int) -> float:
    """Length of PCM16 audio in ms."""
    return len(pcm) * 500 / rate
