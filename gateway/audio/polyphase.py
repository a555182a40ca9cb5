"""Rate conversion as a few matrix products, whose coefficients all streams of the same two rates share.

A filter (a sinc in a Kaiser window) is evaluated at every position that an output can have between two
inputs. Outputs that follow each other look at nearly the same inputs, so some sixty of them at once are
one product of the inputs with a matrix, many times a stroke. It costs a third of what a resampler with
a filter of its own costs, which, with many streams, never finds it in the processor's cache.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gateway.audio.pcm import Float

_CROSSINGS = 16
"""Zeros of the sinc on each side."""
_BETA = 9.0
"""Of the Kaiser window: about 90 dB."""
_PASSED = 0.97
"""Of the lower rate's band, where the output has the lower one."""
_TOGETHER = 64
"""Outputs of one product."""
_MOST = 250_000
"""Coefficients; rates with so little in common that they need more are left to others."""
_SINGLE = 1 << 18
"""Multiplications up to which a product is done at once, in this thread: more are split among threads, which
then spin for more."""


class Bank:
    """`made` outputs from every `taken` inputs, each from `taps` of them. Has no state; see `bank`."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.taken, self.made, half = _shape(in_rate, out_rate)
        factor = min(1.0, _PASSED * out_rate / in_rate)
        self.taps = 2 * half
        self.before = half - 1
        """Inputs before the first that the first output looks at."""
        starts = np.arange(self.made) * self.taken // self.made
        exact = np.arange(self.made) * self.taken / self.made
        apart = starts[:, None] - self.before + np.arange(self.taps) - exact[:, None]
        window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (apart / half) ** 2)))
        filters = np.sinc(apart * factor) * window
        filters = (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)
        self._parts: list[tuple[int, int, int, Float]] = []
        """(first output, the one after the last, first input, coefficients [inputs, outputs])."""
        for first in range(0, self.made, _TOGETHER):
            end = min(first + _TOGETHER, self.made)
            begin = int(starts[first])
            matrix = np.zeros((int(starts[end - 1]) - begin + self.taps, end - first), np.float32)
            for output in range(first, end):
                at = int(starts[output]) - begin
                matrix[at : at + self.taps, output - first] = filters[output]
            self._parts.append((first, end, begin, matrix))
        self.looked_at = int(starts[-1]) + self.taps
        """Inputs that `made` outputs look at, `before` included."""
        self._rows = max(1, _SINGLE // max(matrix.size for *_, matrix in self._parts))

    def run(self, x: Float, periods: int) -> Float:
        """float32 [periods · made] of contiguous float32 x [at least (periods - 1) · taken + looked_at], in x's scale."""
        out = np.empty((periods, self.made), np.float32)
        for row in range(0, periods, self._rows):
            rows = min(self._rows, periods - row)
            for first, end, begin, matrix in self._parts:
                # Rows of x as a view with strides of its own; nothing is copied.
                at = 4 * (row * self.taken + begin)
                inputs: Float = np.ndarray((rows, len(matrix)), np.float32, x, at, (4 * self.taken, 4))
                np.matmul(inputs, matrix, out=out[row : row + rows, first:end])
        return out.reshape(-1)


def _shape(in_rate: int, out_rate: int) -> tuple[int, int, int]:
    """(inputs taken and outputs made by a period, zeros of the sinc on each side, in inputs)."""
    half = math.ceil(_CROSSINGS * max(1.0, in_rate / (_PASSED * out_rate)))
    common = math.gcd(in_rate, out_rate)
    # numpy leaves a product to BLAS only where a row of inputs ends before the next begins.
    row = 2 * half + math.ceil(_TOGETHER * in_rate / out_rate)
    times = math.ceil(row * common / in_rate)
    return in_rate // common * times, out_rate // common * times, half


def covers(in_rate: int, out_rate: int) -> bool:
    """Whether these rates have enough in common."""
    _, made, half = _shape(in_rate, out_rate)
    return made * (2 * half + _TOGETHER * in_rate / out_rate) <= _MOST


@lru_cache(maxsize=32)
def bank(in_rate: int, out_rate: int) -> Bank:
    """The coefficients for two rates that it `covers`; made once, in some milliseconds."""
    return Bank(in_rate, out_rate)
