"""A signal like speech: voiced syllables at the level that real voices are brought to."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np

Signal = np.ndarray[Any, np.dtype[np.float32]]

_SYLLABLES = 64
_SYLLABLE_S = 0.16
_LEVEL = 10 ** (-20 / 20)
"""RMS of the voiced parts, full scale 1."""


@functools.lru_cache(maxsize=4)
def babble(rate: int) -> tuple[Signal, int]:
    """About 10 s that can be repeated without a seam, at `rate` Hz, and the samples of one syllable."""
    size = round(rate * _SYLLABLE_S)
    t = np.arange(size) / rate
    source = np.random.default_rng(20)
    attack = np.minimum(1.0, t / 0.012)
    decay = np.minimum(1.0, (_SYLLABLE_S - t) / 0.03)
    syllables = []
    for _ in range(_SYLLABLES):
        pitch = source.uniform(95, 190) * (1 + 0.15 * source.uniform(-1, 1) * t / _SYLLABLE_S)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        first, second = source.uniform(280, 800), source.uniform(900, 2_300)
        wave = np.zeros(size)
        for harmonic in range(1, 25):
            f = harmonic * float(pitch.mean())
            if f < min(3_500, rate * 0.45):
                weight = (
                    np.exp(-(((f - first) / 180) ** 2)) + 0.5 * np.exp(-(((f - second) / 260) ** 2)) + 0.03
                )
                wave += weight * np.sin(harmonic * phase + source.uniform(0, 2 * np.pi))
        wave *= attack * decay
        syllables.append(wave / np.sqrt((wave**2).mean()) * source.uniform(0.6, 1.0))
    signal = np.concatenate(syllables)
    signal *= _LEVEL / np.sqrt((signal**2).mean())
    return np.clip(signal, -0.98, 0.98).astype(np.float32), size


def start_of(text: str, rate: int) -> int:
    """Where in the babble a text begins: the same for the same text, on a syllable."""
    _, syllable = babble(rate)
    return zlib.crc32(text.encode()) % _SYLLABLES * syllable


def cut(rate: int, start: int, length: int) -> Signal:
    """`length` samples of the endless babble from `start`."""
    signal, _ = babble(rate)
    made: Signal = np.take(signal, np.arange(start, start + length), mode="wrap")
    return made
