"""What was sent to a client, by absolute position at 16 kHz, for comparing the microphone with it.

Most of it nobody ever looks at: audio is kept as it was sent and resampled when somebody does.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import to_float, to_int16
from gateway.audio.resample import Resampler, borrow, give_back
from gateway.listen.asr import RATE

Float = npt.NDArray[np.float32]


class Playback:
    """`past` samples before the newest read and `ahead` beyond it are kept; elsewhere are zeros."""

    def __init__(self, rate: int, past: int, ahead: int) -> None:
        """rate: Hz of what is appended."""
        self._rate, self._size = rate, past + ahead
        self._unread: deque[tuple[int, bytes]] = deque()  # (position, PCM16 at `rate`)
        self._ring: Float | None = None
        self._read = 0  # the ring holds what lies before this
        self._resampler: Resampler | None = None
        self.end = 0
        """Position after the last sample."""

    def append(self, pcm: bytes) -> None:
        """PCM16 at `rate`, in the order of time."""
        self._unread.append((self.end, pcm))
        self.end += round(len(pcm) // 2 * RATE / self._rate)
        self.forget(self.end - self._size)

    def skip_to(self, position: int) -> None:
        """Nothing was sent up to there."""
        self.end = max(self.end, position)

    def forget(self, before: int) -> None:
        """Nobody will look at what lies before this any more."""
        while len(self._unread) > 1 and self._unread[1][0] <= before:
            self._unread.popleft()

    def slice(self, begin: int, end: int) -> Float:
        """float32 [end - begin], −1…1."""
        if self._unread:
            self._catch_up()
        if self._ring is None:
            return np.zeros(end - begin, np.float32)
        positions = np.arange(begin, end)
        known = (positions < self._read) & (positions >= max(0, self.end - self._size))
        return np.where(known, self._ring[positions % self._size], np.float32(0))

    def close(self) -> None:
        """No more is asked."""
        if self._resampler is not None:
            give_back(self._resampler)
            self._resampler = None

    def _catch_up(self) -> None:
        if self._ring is None:
            self._ring = np.zeros(self._size, np.float32)
        while self._unread:
            begin, pcm = self._unread.popleft()
            pieces, end = [pcm], begin + round(len(pcm) // 2 * RATE / self._rate)
            while self._unread and self._unread[0][0] == end:
                pieces.append(self._unread.popleft()[1])
                end += round(len(pieces[-1]) // 2 * RATE / self._rate)
            self._write(begin, end, self._resampled(b"".join(pieces)))

    def _resampled(self, pcm: bytes) -> Float:
        if self._rate == RATE:
            return to_float(pcm)
        if self._resampler is None:
            self._resampler = borrow(self._rate, RATE)
        return self._resampler.push(to_int16(pcm)).astype(np.float32) * np.float32(1 / 32768)

    def _write(self, begin: int, end: int, samples: Float) -> None:
        """At [begin, end): the resampler's first samples come late, so what is missing is missing in front."""
        assert self._ring is not None
        if begin > self._read:  # nothing was sent in between
            self._clear(max(self._read, begin - self._size), begin)
        length = end - begin
        if samples.size < length:
            samples = np.concatenate((np.zeros(length - samples.size, np.float32), samples))
        samples = samples[-min(length, self._size) :]
        first = (end - samples.size) % self._size
        head = min(samples.size, self._size - first)
        self._ring[first : first + head] = samples[:head]
        self._ring[: samples.size - head] = samples[head:]
        self._read = end

    def _clear(self, begin: int, end: int) -> None:
        assert self._ring is not None
        self._ring[np.arange(begin, end) % self._size] = 0
