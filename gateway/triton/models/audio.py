"""From an engine's samples to a model's chunks: silence trimmed, level set, sizes kept."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""float32 [n], full scale 1."""

FIRST_MS, SECOND_MS, CHUNK_MS = 40, 80, 160
"""Chunk lengths: little to wait for at first, few messages later."""
MIN_MS = 40
SILENCE = 0.003
"""-50 dBFS: quieter than this at the start is silence ..."""
KEPT_MS = 10
"""... of which this much stays, for the onset ..."""
TRIM_MS = 500
"""... and no more than this much is removed."""
KNEE = 0.9
FAINTEST = float(np.finfo(np.float32).tiny)


def at_full_scale(samples: Samples) -> Samples:
    """What an engine hears of samples [n] that somebody sent: a copy without any beyond full scale, which would
    outweigh all others, and without any too small for a float32 of full precision, which processors are slow with.
    What is no number stays."""
    cut = np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)
    cut[np.abs(cut) < FAINTEST] = 0.0
    return cut


def limited(samples: Samples) -> Samples:
    """Bends what exceeds the knee so that nothing reaches full scale."""
    over = np.abs(samples) - KNEE
    if not (over > 0).any():
        return samples
    bent = np.sign(samples) * (KNEE + (1 - KNEE) * np.tanh(over / (1 - KNEE)) * 0.99)
    return np.where(over > 0, bent, samples).astype(np.float32)


class Trim:
    """Removes the silence at the start of a stream."""

    def __init__(self, rate: int) -> None:
        self._kept = rate * KEPT_MS // 1000
        self._left = rate * TRIM_MS // 1000
        self._held = np.zeros(0, np.float32)
        self._open = False

    def __call__(self, samples: Samples) -> Samples:
        if self._open:
            return samples
        self._held = np.concatenate([self._held, samples])
        loud = np.flatnonzero(np.abs(self._held) > SILENCE)
        if len(loud):
            start = min(max(0, int(loud[0]) - self._kept), self._left)
        elif len(self._held) - self._kept > self._left:
            start = self._left
        else:
            return self._held[:0]
        self._open = True
        out, self._held = self._held[start:], self._held[:0]
        return out

    def flush(self) -> Samples:
        """At the end: nothing was loud, so nothing is left."""
        return self._held[:0]


class Chunks:
    """A queue of samples, handed out in contract-sized chunks."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._parts: deque[Samples] = deque()
        self._size = 0
        self._taken = 0
        self.closed = False

    @property
    def ms(self) -> float:
        """Audio held."""
        return self._size * 1000 / self._rate

    def put(self, samples: Samples) -> None:
        if len(samples):
            self._parts.append(samples)
            self._size += len(samples)

    def ready(self) -> bool:
        """Whether `take` may be called: enough for a chunk that leaves no crumb behind, or all there is."""
        return self.closed or self.ms >= self._next_ms() + MIN_MS

    def take(self) -> tuple[Samples, bool]:
        """The next chunk, and whether it is the last (then it may be empty)."""
        size = self._rate * self._next_ms() // 1000
        if self._size - size < self._rate * MIN_MS // 1000:  # closed: share out what is left
            size = self._size if self._size <= self._rate * CHUNK_MS // 1000 else self._size // 2
        self._taken += 1
        parts, need = [], size
        while need:
            part = self._parts.popleft()
            if len(part) > need:
                self._parts.appendleft(part[need:])
                part = part[:need]
            parts.append(part)
            need -= len(part)
        self._size -= size
        chunk = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return chunk, self.closed and not self._size

    def _next_ms(self) -> int:
        return FIRST_MS if self._taken == 0 else SECOND_MS if self._taken == 1 else CHUNK_MS
