"""A streaming gain towards a target level that moves too slowly to be heard, and never clips."""

from __future__ import annotations

import math
from typing import cast, overload

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import Float, Int16

_BLOCK_MS = 20
_ABSOLUTE_GATE_DBFS = -55.0
_GATE_POWER = 10 ** (_ABSOLUTE_GATE_DBFS / 10)
_RELATIVE_GATE = 10 ** (-10.0 / 10)
"""Blocks this far below the mean are pauses, not speech (as in ITU-R BS.1770)."""
_MEMORY_S = 6.0
_RISE_DB_S = 12.0
_FALL_DB_S = 36.0
_MAX_GAIN_DB = 18.0
_KNEE = 0.8
"""Peaks above this are bent, not cut."""
_CEILING = 0.97
_RECOVERED = 0.999
"""A duck above this (0.01 dB) is over."""

Power = npt.NDArray[np.float64]


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
            levelled = self.unrounded(cast(Int16, samples))
            return np.asarray(np.rint(levelled, out=levelled), np.int16)
        return self._process(np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), 1.0)

    def unrounded(self, samples: Int16) -> Float:
        """float32 [n] in the scale of int16, for whoever goes on working on it."""
        return (
            self._process(samples.astype(np.float32), 32768.0) if samples.size else samples.astype(np.float32)
        )

    def _process(self, x: Float, scale: float) -> Float:
        """`scale` is full scale in `x`, which is overwritten. Most strokes are neither loud nor new: those cost
        two looks at the samples and one multiplication."""
        count, block = len(x), self._block
        blocks = -(-count // block)
        last = count - (blocks - 1) * block  # samples of the last block, which may be short
        rows = x if last == block else np.concatenate((x, np.zeros(block - last, np.float32)))
        rows = rows.reshape(blocks, block)
        powers = np.einsum("ij,ij->i", rows, rows) / (block * scale * scale)
        powers[-1] *= block / last
        self._hear(powers[powers > _GATE_POWER])
        peak = max(float(np.maximum.reduce(x)), -float(np.minimum.reduce(x))) / scale
        gains = self._gains(blocks, last / block, peak, rows, scale)
        moving = _moving(gains)
        if moving:
            first = np.array(gains[:moving], np.float32)[:, None]
            ramps = (np.array(gains[1 : moving + 1], np.float32)[:, None] - first) * self._ramp
            ramps += first
            rows[:moving] *= ramps
        rows[moving:] *= np.float32(gains[-1])
        out = rows.reshape(-1)[:count]
        # A bound first: where even the highest peak stays below the knee, nobody asks which block it is in.
        if peak * max(gains) > _KNEE and float(np.abs(out).max()) > _KNEE * scale:
            out = _bend(out / np.float32(scale)) * np.float32(scale)
        return out

    def _gains(self, blocks: int, last: float, peak: float, rows: Float, scale: float) -> list[float]:
        """At the edges of the blocks, one more than there are. last: length of the last one in blocks.
        peak: of all of them, of full scale."""
        wanted, gain_db, duck = self._wanted_gain_db(), self._gain_db, self._duck
        gain = 10 ** (gain_db / 20)
        gains = [gain * duck]
        calm = duck == 1.0 and peak * max(gain, 10 ** (wanted / 20)) <= _CEILING
        peaks = [] if calm else (np.abs(rows).max(axis=1) / scale).tolist()
        for number in range(blocks):
            if calm and gain_db == wanted:
                gains += [gain] * (blocks - number)
                break
            seconds = self._block_s if number < blocks - 1 else self._block_s * last
            step = max(-_FALL_DB_S * seconds, min(_RISE_DB_S * seconds, wanted - gain_db))
            gain_db = wanted if step == wanted - gain_db else gain_db + step
            gain = 10 ** (gain_db / 20)
            if not calm:
                # Down at once for a peak, back up over about 200 ms.
                risen = duck + (1 - duck) * min(1.0, seconds * 5)
                duck = min(risen, _CEILING / max(peaks[number] * gain, _CEILING))
                if duck > _RECOVERED:
                    duck = 1.0
            gains.append(gain * duck)
        self._gain_db, self._duck = gain_db, duck
        return gains

    def _hear(self, powers: Power) -> None:
        """Of blocks above the gate, into the memory, which begins anew at its end."""
        while powers.size:
            at = self._heard % self._powers.size
            taken = powers[: self._powers.size - at]
            self._powers[at : at + taken.size] = taken
            self._heard += taken.size
            powers = powers[taken.size :]

    def _wanted_gain_db(self) -> float:
        powers = self._powers[: self._heard]
        if not powers.size:
            return self._gain_db
        gate = float(np.add.reduce(powers)) / powers.size * _RELATIVE_GATE
        voiced = powers[powers >= gate]
        wanted = self._target - 10 * math.log10(float(np.add.reduce(voiced)) / voiced.size)
        return max(-_MAX_GAIN_DB, min(_MAX_GAIN_DB, wanted))


def _moving(gains: list[float]) -> int:
    """Number of blocks before the gain stays as it is."""
    moving = len(gains) - 1
    while moving and gains[moving - 1] == gains[-1]:
        moving -= 1
    return moving


def _bend(x: Float) -> Float:
    """Identity below the knee, smooth towards 1 above it."""
    size = np.abs(x)
    if float(size.max()) <= _KNEE:
        return x
    room = np.float32(1 - _KNEE)
    bent = _KNEE + room * np.tanh((size - np.float32(_KNEE)) / room)
    return np.where(size > _KNEE, np.copysign(bent, x), x).astype(np.float32)
