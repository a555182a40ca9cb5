"""Streaming resampling for the live path: 1 ms of delay, where soxr holds back up to 40.

Nearly all rates go over the shared coefficients of `polyphase`. Rates with little in common go over a
resampler of their own, and making one costs as much as 300 ms of audio through it (its filter is
computed anew), so live streams `borrow` one and give it back.
"""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.audio.resampler import AudioResampler

from gateway.audio.pcm import Float, Int16
from gateway.audio.polyphase import Bank, bank, covers

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
        self._way: _Shared | _Own | None = None
        if in_rate != out_rate:
            self._way = (
                _Shared(bank(in_rate, out_rate)) if covers(in_rate, out_rate) else _Own(in_rate, out_rate)
            )

    def push(self, samples: Int16 | Float) -> Int16:
        """The output that `samples` [n] completes: [about n · out/in], 1 ms late; may be empty.

        Floats are in the scale of int16, not yet rounded."""
        if self._way is None or not samples.size:
            return rounded(samples)
        return self._way.push(samples)

    def drain(self) -> Int16:
        """What is still held back, and a little silence; the resampler goes on, its memory clean."""
        if self._way is None or not self._way.used:
            return _NOTHING
        return self._way.push(np.zeros(self.in_rate * _DRAIN_MS // 1000, np.int16))

    def recycle(self) -> None:
        """As good as new: nothing of what was pushed so far will be heard."""
        if self._way is not None:
            self._way.recycle()

    def flush(self) -> Int16:
        """What is still held back; the resampler starts afresh after it."""
        return self._way.flush() if self._way is not None and self._way.used else _NOTHING


class _Shared:
    """One stream over a `Bank`."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.recycle()

    def recycle(self) -> None:
        self.used = False
        # Inputs from the first that the outputs of this period look at on, and how many of those were given.
        self._held: Float = np.zeros(self._bank.before, np.float32)
        self._given = 0

    def push(self, samples: Int16 | Float) -> Int16:
        self.used = True
        bank, held = self._bank, self._held
        have = held.size + samples.size
        # The last output needs input up to `taps` past floor(output · taken / made).
        end = ((have - bank.taps + 1) * bank.made - 1) // bank.taken + 1 if have >= bank.taps else 0
        periods = max(1, -(-end // bank.made))
        x = np.empty(max(have, (periods - 1) * bank.taken + bank.looked_at), np.float32)
        x[: held.size] = held
        x[held.size : have] = samples
        x[have:] = 0
        whole, given = divmod(end, bank.made)
        self._held = x[whole * bank.taken : have].copy()
        before, self._given = self._given, given
        if end <= before:
            self._given = before
            return _NOTHING
        return rounded(bank.run(x, periods)[before:end])

    def flush(self) -> Int16:
        rest = self.push(np.zeros(self._bank.taps // 2, np.int16))
        self.recycle()
        return rest


class _Own:
    """One stream over libswresample, with a filter for these two rates."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self._in_rate, self._out_rate = in_rate, out_rate
        self._swr: AudioResampler | None = None
        self._taken = self._given = 0
        self._stale = 0
        """Samples still to come of what a former user pushed."""

    @property
    def used(self) -> bool:
        return self._swr is not None

    def push(self, samples: Int16 | Float) -> Int16:
        if self._swr is None:
            self._swr = AudioResampler(format="s16", layout="mono", rate=self._out_rate)
        whole = np.ascontiguousarray(rounded(samples)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate = self._in_rate
        out = _joined(self._swr.resample(frame))
        self._taken += samples.size
        self._given += out.size
        if self._stale:
            out, self._stale = out[self._stale :], max(0, self._stale - out.size)
        return out

    def recycle(self) -> None:
        if self._swr is not None:
            self.push(np.zeros(self._in_rate * _DRAIN_MS // 1000, np.int16))
        self._stale = max(0, round(self._taken * self._out_rate / self._in_rate) - self._given)

    def flush(self) -> Int16:
        rest = _joined(self._swr.resample(None)) if self._swr is not None else _NOTHING
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


def rounded(samples: Int16 | Float) -> Int16:
    """int16 [n] of floats in its own scale, clipped; int16 as it is. Writes on floats."""
    if samples.dtype == np.int16:
        return cast(Int16, samples)
    np.rint(samples, out=samples)
    # Not np.clip: for a few thousand samples its wrapper costs more than its work.
    np.minimum(samples, 32767, out=samples)
    np.maximum(samples, -32768, out=samples)
    return samples.astype(np.int16)


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
