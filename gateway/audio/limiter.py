"""A true-peak limiter: looks 5 ms ahead, comes down along a slope instead of clipping, and lets go slowly."""

from __future__ import annotations

import math

import numpy as np

from gateway.audio.pcm import Float

_AHEAD = 5
"""Cells of 1 ms: how long before a peak the gain begins to fall."""
_RELEASE_S = 0.08
_LOSS_MS = 3_000
"""What was limited longer ago hardly counts for `loss_db`."""
_SUSPECT = 0.7
"""Between samples speech is hardly ever more than 3 dB higher than on them: below this share of the ceiling
nobody looks."""
_TAPS = 16
_PHASES = 4


class Limiter:
    """One per stream, mono at `rate` Hz. What comes out is 6 ms late, until `flush`."""

    def __init__(self, rate: int, ceiling_dbtp: float) -> None:
        self._cell = rate // 1000
        self._ceiling = 10 ** (ceiling_dbtp / 20)
        self._held: Float = np.zeros(0, np.float32)
        """Not given yet; its peaks are looked at again with what follows."""
        self._before: Float = np.zeros(_TAPS, np.float32)
        """The samples before `held`, for what lies between samples."""
        self._gain = 1.0
        """At the start of `held`."""
        self._power_in = self._power_out = 0.0

    @property
    def loss_db(self) -> float:
        """How much less loud the last seconds have become; 0 while nothing was too high."""
        return 10 * math.log10(self._power_in / self._power_out) if self._power_out else 0.0

    def push(self, samples: Float) -> Float:
        """float32 [n], however loud → float32 [m], all below the ceiling, in whole ms."""
        held = np.concatenate((self._held, samples)) if self._held.size else samples
        cells = len(held) // self._cell - _AHEAD - 1
        if cells <= 0:
            self._held = held
            return held[:0]
        return self._give(held, cells)

    def flush(self) -> Float:
        """The rest; the limiter is as new after it."""
        size = len(self._held)
        if not size:
            return self._held
        cells = -(-size // self._cell)
        padding = np.zeros((cells + _AHEAD + 1) * self._cell - size, np.float32)
        rest = self._give(np.concatenate((self._held, padding)), cells)[:size]
        self._held, self._before, self._gain = rest[:0], np.zeros(_TAPS, np.float32), 1.0
        return rest

    def _give(self, held: Float, cells: int) -> Float:
        size = cells * self._cell
        out = held[:size]
        keep = math.exp(-cells / _LOSS_MS)
        power = float(np.dot(out, out))
        self._power_in = self._power_in * keep + power
        looked_at = size + (_AHEAD + 1) * self._cell
        if self._gain < 1.0 or float(np.abs(held[:looked_at]).max()) > _SUSPECT * self._ceiling:
            out = out * self._curve(held[:looked_at], cells)
            power = float(np.dot(out, out))
        self._power_out = self._power_out * keep + power
        self._before = np.concatenate((self._before, held[:size]))[-_TAPS:]
        self._held = held[size:].copy()
        return out

    def _curve(self, held: Float, cells: int) -> Float:
        """The gain of every sample of the first `cells` cells; `held` has 6 cells more."""
        peaks = _true_peaks(np.concatenate((self._before, held)))[_TAPS:]
        wanted = np.minimum(1.0, self._ceiling / np.maximum(peaks.reshape(-1, self._cell).max(axis=1), 1e-9))
        edges = np.append(wanted, 1.0)
        edges[1:-1] = np.minimum(wanted[:-1], wanted[1:])
        edges[0] = min(self._gain, float(wanted[0]))
        values = edges.tolist()
        for k in range(len(values) - 2, -1, -1):
            values[k] = min(values[k], values[k + 1] + 1 / _AHEAD)
        rise = 0.001 / _RELEASE_S
        values[0] = min(values[0], self._gain)
        for k in range(cells):
            values[k + 1] = min(values[k + 1], values[k] + rise)
        self._gain = values[cells]
        at = np.arange(cells * self._cell, dtype=np.float32) / np.float32(self._cell)
        return np.interp(at, np.arange(cells + 1), values[: cells + 1]).astype(np.float32)


def _kernels() -> list[Float]:
    """Fractional delays of 1/4, 2/4 and 3/4 of a sample."""
    kernels = []
    for phase in range(1, _PHASES):
        at = np.arange(_TAPS) - (_TAPS // 2 - 1) - phase / _PHASES
        kernel = np.sinc(at) * np.cos(np.pi * at / (_TAPS + 1)) ** 2
        kernels.append((kernel / kernel.sum()).astype(np.float32))
    return kernels


_KERNELS = _kernels()


def _true_peaks(x: Float) -> Float:
    """The highest value on or beside each sample, as if sampled four times as often. [n] → [n]"""
    peaks = np.abs(x)
    for kernel in _KERNELS:
        between = np.abs(np.convolve(x, kernel[::-1]))[_TAPS // 2 : _TAPS // 2 + len(x)]
        np.maximum(peaks, between, out=peaks)
        np.maximum(peaks[1:], between[:-1], out=peaks[1:])
    return peaks
