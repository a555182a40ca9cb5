"""Loudness as ITU-R BS.1770 hears it, measured while speech streams by.

The K-weighting is applied to the spectrum of 100 ms at a time instead of by recursive filters, which would
be a Python loop over samples: within 0.1 LU of the filters on speech, at 30 µs per 100 ms.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import Float

STEP_MS = 100
_BLOCK = 4
"""Steps of a gating block: 400 ms, overlapping by three quarters."""
_OFFSET = -0.691
_ABSOLUTE = 10 ** ((-70.0 - _OFFSET) / 10)
_RELATIVE = 10 ** (-10.0 / 10)
_MOST_STEPS = 600
"""What is older than a minute no longer counts."""

Power = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Biquad = tuple[tuple[float, float, float], tuple[float, float, float]]

_FILTER_RATE = 48_000
_SHELF: Biquad = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGH_PASS: Biquad = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
"""Both from ITU-R BS.1770-4, tables 1 and 2."""


class LoudnessMeter:
    """Integrated loudness of the speech so far. Feed it mono float32, −1…1, in pieces of any size."""

    def __init__(self, rate: int) -> None:
        self._step = rate * STEP_MS // 1000
        self._weights = _weights(rate, self._step)
        self._rest: Float = np.zeros(0, np.float32)
        self._powers: list[float] = []

    def push(self, samples: Float) -> bool:
        """Whether a step was completed, so that `lufs` may have changed."""
        x = np.concatenate((self._rest, samples)) if self._rest.size else samples
        whole = len(x) // self._step
        if whole:
            rows = x[: whole * self._step].reshape(whole, self._step)
            spectrum = np.fft.rfft(rows, axis=1)
            power = (spectrum.real**2 + spectrum.imag**2) @ self._weights
            self._powers += [value if math.isfinite(value) else 0.0 for value in power.tolist()]
            del self._powers[:-_MOST_STEPS]
        self._rest = x[whole * self._step :].copy()
        return whole > 0

    @property
    def lufs(self) -> float | None:
        """Of what was voiced, pauses gated out; None while nothing was. From less than 400 ms: of that."""
        voiced = self._voiced()
        return _OFFSET + 10 * math.log10(float(voiced.mean())) if voiced.size else None

    @property
    def voiced_s(self) -> float:
        """How much speech `lufs` rests on."""
        return self._voiced().size * STEP_MS / 1000

    def _voiced(self) -> Power:
        steps = np.array(self._powers)
        if len(steps) > _BLOCK:
            sums = np.cumsum(np.concatenate(((0.0,), steps)))
            steps = (sums[_BLOCK:] - sums[:-_BLOCK]) / _BLOCK
        audible = steps[steps > _ABSOLUTE]
        if not audible.size:
            return audible
        loud: Power = audible[audible > audible.mean() * _RELATIVE]
        return loud


@cache
def _weights(rate: int, size: int) -> Power:
    """Of each bin of an rfft over `size` samples, so that the weighted sum is the K-weighted mean square."""
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    # The filters are given for 48 kHz; what matters is what they do at a frequency in Hz.
    z = _unit(-2 * np.pi * frequencies / _FILTER_RATE)
    gain: Power = np.abs(_response(_SHELF, z) * _response(_HIGH_PASS, z)) ** 2
    both_sides = np.full(len(frequencies), 2.0)
    both_sides[0] = 1.0
    if size % 2 == 0:
        both_sides[-1] = 1.0
    weights: Power = gain * both_sides / size**2
    return weights


def _unit(angles: Power) -> Complex:
    unit: Complex = np.cos(angles) + 1j * np.sin(angles)
    return unit


def _response(biquad: Biquad, z: Complex) -> Complex:
    (b0, b1, b2), (a0, a1, a2) = biquad
    return np.asarray((b0 + b1 * z + b2 * z * z) / (a0 + a1 * z + a2 * z * z), np.complex128)
