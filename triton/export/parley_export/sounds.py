"""Audio that Parley makes itself, for references: nobody's speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bursts(seconds: float, seed: int, rate: int = 16_000) -> NDArray[np.float32]:
    """Gliding tones, noise and pauses of 60 to 300 ms each, [seconds * rate] within ±0.5."""
    rng = np.random.default_rng(seed)
    length = round(seconds * rate)
    parts: list[NDArray[np.float64]] = []
    total = 0
    while total < length:
        size = int(rng.integers(rate * 6 // 100, rate * 3 // 10))
        fade = np.minimum(1.0, np.minimum(np.arange(size), np.arange(size)[::-1]) / (rate / 200))
        kind = rng.integers(4)
        if kind == 0:
            sound = 0.002 * rng.standard_normal(size)
        elif kind == 1:
            sound = 0.1 * rng.standard_normal(size)
        else:
            first, last = rng.uniform(90, 900, 2)
            phase = 2 * np.pi * np.cumsum(np.linspace(first, last, size)) / rate
            sound = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9)) * 0.15
            sound = sound + 0.001 * rng.standard_normal(size)
        parts.append(np.clip(sound * fade, -0.5, 0.5))
        total += size
    return np.concatenate(parts)[:length].astype(np.float32)
