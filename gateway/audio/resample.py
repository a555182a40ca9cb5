"""Streaming resampling for the live path: 1 ms of delay, where soxr holds back up to 40.

Making a resampler costs as much as 300 ms of audio through it (its filter is computed anew), so live
streams `borrow` one and give it back.
"""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.audio.resampler import AudioResampler

from gateway.audio.pcm import Int16

MIN_RATE = 8_000
MAX_RATE = 48_000
_DRAIN_MS = 3
"""More than any resampler here holds back."""
_POOLED = 64


_NOTHING: Int16 = np.zeros(0, np.int16)


class Resampler:
    """Mono int16 from `in_rate` to `out_rate` Hz; the state is carried from chunk to chunk.

    Raises ValueError for a rate outside 8,000…48,000. The same rate on both sides passes through.
    """

    def __init__(self, in_rate: int, out_rate: int) -> None:
        for rate in (in_rate, out_rate):
            if not MIN_RATE <= rate <= MAX_RATE:
                raise ValueError(f"sample rate {rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE} Hz")
        self.in_rate = in_rate
        self.out_rate = out_rate
        self._swr: AudioResampler | None = None
        self._taken = self._given = 0
        self._stale = 0
        """Samples still to come of what a former user pushed."""

    def push(self, samples: Int16) -> Int16:
        """The output that `samples` [n] completes: [about n · out/in], 1 ms late; may be empty."""
        if self.in_rate == self.out_rate or not samples.size:
            return samples
        if self._swr is None:
            self._swr = AudioResampler(format="s16", layout="mono", rate=self.out_rate)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self.in_rate
        out = _joined(self._swr.resample(frame))
        self._taken += samples.size
        self._given += out.size
        if self._stale:
            out, self._stale = out[self._stale :], max(0, self._stale - out.size)
        return out

    def drain(self) -> Int16:
        """What is still held back, and a little silence; the resampler goes on, its memory clean."""
        return self.push(np.zeros(self.in_rate * _DRAIN_MS // 1000, np.int16)) if self._swr else _NOTHING

    def recycle(self) -> None:
        """As good as new: nothing of what was pushed so far will be heard."""
        self.drain()
        self._stale = max(0, round(self._taken * self.out_rate / self.in_rate) - self._given)

    def flush(self) -> Int16:
        """What is still held back; the resampler starts afresh after it."""
        if self._swr is None:
            return _NOTHING
        rest = _joined(self._swr.resample(None))
        self._swr = None
        self._taken = self._given = self._stale = 0
        return rest


_pool: dict[tuple[int, int], list[Resampler]] = {}


def borrow(in_rate: int, out_rate: int) -> Resampler:
    """A resampler with a clean memory. Raises ValueError as `Resampler` does. For the event loop's thread."""
    idle = _pool.get((in_rate, out_rate))
    return idle.pop() if idle else Resampler(in_rate, out_rate)


def give_back(resampler: Resampler) -> None:
    """Its next user hears nothing of this one."""
    idle = _pool.setdefault((resampler.in_rate, resampler.out_rate), [])
    if len(idle) < _POOLED:
        resampler.recycle()
        idle.append(resampler)


def _joined(frames: list[av.AudioFrame]) -> Int16:
    parts = [cast(Int16, frame.to_ndarray().ravel()) for frame in frames]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def resample(samples: Int16, in_rate: int, out_rate: int) -> Int16:
    """A whole recording at once."""
    resampler = Resampler(in_rate, out_rate)
    out = resampler.push(samples)
    return np.concatenate([out, resampler.flush()])
