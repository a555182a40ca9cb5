"""A streaming gain towards a target level that moves too slowly to be heard, and never clips."""

from __future__ import annotations

import math
from typing import overload

import numpy as np

from gateway.audio.pcm import Float, Int16

_BLOCK_MS = 20
_ABSOLUTE_GATE_DBFS = -55.0
_GATE_POWER = 10 ** (_ABSOLUTE_GATE_DBFS / 10)
_RELATIVE_GATE_DB = 10.0
"""Blocks this far below the mean are pauses, not speech (as in ITU-R BS.1770)."""
_MEMORY_S = 6.0
_RISE_DB_S = 12.0
_FALL_DB_S = 36.0
_MAX_GAIN_DB = 18.0
_KNEE = 0.8
"""Peaks above this are bent, not cut."""
_CEILING = 0.97


class Leveler:
    """Brings speech at `rate` Hz to `target_dbfs` (RMS of its voiced parts), with no latency.

    The level is estimated over seconds of speech and pauses do not count, so the gain settles in
    the first sentence and then stays; keep one leveler per voice.
    """

    def __init__(self, rate: int, target_dbfs: float) -> None:
        self._block = max(1, rate * _BLOCK_MS // 1000)
        self._block_s = _BLOCK_MS / 1000
        self._target = target_dbfs
        self._powers = np.zeros(int(_MEMORY_S * 1000 / _BLOCK_MS))
        self._heard = 0
        self._gain_db = 0.0
        self._duck = 1.0
        self._ramp = np.linspace(0, 1, self._block, dtype=np.float32)

    @property
    def gain_db(self) -> float:
        """The gain in force."""
        return self._gain_db

    @overload
    def process(self, samples: Float) -> Float: ...
    @overload
    def process(self, samples: Int16) -> Int16: ...
    def process(self, samples: Float | Int16) -> Float | Int16:
        """As many samples, same type: float32 [n] of −1…1, or int16 [n]."""
        if not samples.size:
            return samples
        if samples.dtype == np.int16:
            levelled = self._process(samples.astype(np.float32), 32768.0)
            return np.asarray(np.rint(levelled, out=levelled), np.int16)
        return self._process(np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), 1.0)

    def _process(self, x: Float, scale: float) -> Float:
        """`scale` is full scale in `x`."""
        count, block = len(x), self._block
        blocks = -(-count // block)
        last = count - (blocks - 1) * block  # samples of the last block, which may be short
        rows = x if last == block else np.concatenate((x, np.zeros(block - last, np.float32)))
        rows = rows.reshape(blocks, block)
        powers = np.einsum("ij,ij->i", rows, rows) / (block * scale * scale)
        powers[-1] *= block / last
        self._hear([power for power in powers.tolist() if power > _GATE_POWER])
        peaks = (np.abs(rows).max(axis=1) / scale).tolist()
        before, after = self._gains(peaks, last / block)
        first = np.array(before, np.float32)[:, None]
        ramps = (np.array(after, np.float32)[:, None] - first) * self._ramp
        ramps += first
        ramps *= rows
        out = ramps.ravel()[:count]
        loudest = max(peak * max(b, a) for peak, b, a in zip(peaks, before, after, strict=True))
        return out if loudest <= _KNEE else _bend(out / np.float32(scale)) * np.float32(scale)

    def _gains(self, peaks: list[float], last: float) -> tuple[list[float], list[float]]:
        """Of each block, at its start and at its end; `last` is the length of the last one in blocks."""
        wanted = self._wanted_gain_db()
        before, after = [], []
        for number, peak in enumerate(peaks, 1):
            seconds = self._block_s * (last if number == len(peaks) else 1.0)
            before.append(10 ** (self._gain_db / 20) * self._duck)
            self._gain_db += max(-_FALL_DB_S * seconds, min(_RISE_DB_S * seconds, wanted - self._gain_db))
            gain = 10 ** (self._gain_db / 20)
            # Down at once for a peak, back up over about 200 ms.
            risen = self._duck + (1 - self._duck) * min(1.0, seconds * 5)
            self._duck = min(risen, _CEILING / max(peak * gain, _CEILING))
            after.append(gain * self._duck)
        return before, after

    def _hear(self, powers: list[float]) -> None:
        for power in powers:
            self._powers[self._heard % len(self._powers)] = power
            self._heard += 1

    def _wanted_gain_db(self) -> float:
        powers = self._powers[: self._heard]
        if not powers.size:
            return self._gain_db
        voiced = powers[powers >= powers.mean() * 10 ** (-_RELATIVE_GATE_DB / 10)]
        wanted = self._target - 10 * math.log10(float(voiced.mean()))
        return max(-_MAX_GAIN_DB, min(_MAX_GAIN_DB, wanted))


def _bend(x: Float) -> Float:
    """Identity below the knee, smooth towards 1 above it."""
    size = np.abs(x)
    if float(size.max()) <= _KNEE:
        return x
    room = np.float32(1 - _KNEE)
    bent = _KNEE + room * np.tanh((size - np.float32(_KNEE)) / room)
    return np.where(size > _KNEE, np.copysign(bent, x), x).astype(np.float32)
