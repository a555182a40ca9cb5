"""Sample formats that are not PCM16, brought to it: 8, 24 and 32 bit, float, mu-law and A-law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import Int16


class BadAudio(ValueError):
    """The audio cannot be decoded. `str()` is one sentence for the client that says what to send."""


def _mulaw_table() -> Int16:
    """ITU-T G.711 mu-law, one value per code."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Int16:
    """ITU-T G.711 A-law, one value per code."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code & 0x70) >> 4
    low = (code & 0x0F) << 4
    magnitude = np.where(segment == 0, low + 8, low + 0x108 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_MULAW = _mulaw_table()
_ALAW = _alaw_table()


def _s24(data: bytes) -> Int16:
    """The upper two bytes of three."""
    triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return np.ascontiguousarray(triples[:, 1:]).view("<i2").ravel().astype(np.int16, copy=False)


def _float(values: npt.NDArray[np.floating[Any]]) -> Int16:
    finite = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=-1.0)
    clipped: Int16 = np.clip(np.rint(finite * 32768.0), -32768, 32767).astype(np.int16)
    return clipped


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """How one sample lies in bytes."""

    name: str
    """As an error text calls it."""
    width: int
    """Bytes of one sample of one channel."""
    convert: Callable[[bytes], Int16]
    """Whole samples to int16, channels still interleaved."""


U8 = SampleFormat(
    "8-bit PCM", 1, lambda d: (np.frombuffer(d, np.uint8).astype(np.int16) - 128) * np.int16(256)
)
S16 = SampleFormat("16-bit PCM", 2, lambda d: np.frombuffer(d, "<i2").astype(np.int16, copy=False))
S24 = SampleFormat("24-bit PCM", 3, _s24)
S32 = SampleFormat("32-bit PCM", 4, lambda d: (np.frombuffer(d, "<i4") >> 16).astype(np.int16))
F32 = SampleFormat("32-bit float", 4, lambda d: _float(np.frombuffer(d, "<f4")))
F64 = SampleFormat("64-bit float", 8, lambda d: _float(np.frombuffer(d, "<f8")))
MULAW = SampleFormat("mu-law", 1, lambda d: _MULAW[np.frombuffer(d, np.uint8)])
ALAW = SampleFormat("A-law", 1, lambda d: _ALAW[np.frombuffer(d, np.uint8)])


class SampleStream:
    """Interleaved samples of any chunking in, the first channel as int16 out; half a frame waits."""

    def __init__(self, form: SampleFormat, channels: int) -> None:
        self._form = form
        self._channels = channels
        self._block = form.width * channels
        self._carry = b""

    def feed(self, data: bytes) -> Int16:
        """int16 [n] of the first channel: every frame that `data` completes."""
        if self._carry:
            data = self._carry + data
        whole = len(data) - len(data) % self._block
        self._carry = data[whole:]
        samples = self._form.convert(data[:whole] if self._carry else data)
        return samples if self._channels == 1 else np.ascontiguousarray(samples[:: self._channels])
