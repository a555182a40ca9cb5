"""What was sent to a client, by absolute position at 16 kHz, for comparing the microphone with it.

Most of it nobody ever looks at: audio is kept as it was sent and resampled when somebody does.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from gateway.audio.pcm import Float, Int16, to_int16
from gateway.audio.resample import Resampler, borrow, give_back
from gateway.listen.asr import RATE

_TO_FLOAT = np.float32(1 / 32768)
_SPARE = RATE // 2
"""Room for what is still to come, each time the ring is made."""


class Playback:
    """`past` samples before the newest read and `ahead` beyond it are kept; elsewhere are zeros."""

    __slots__ = ("_forgotten", "_rate", "_read", "_resampler", "_ring", "_size", "_unread", "end")

    def __init__(self, rate: int, past: int, ahead: int) -> None:
        """rate: Hz of what is appended."""
        self._rate, self._size = rate, past + ahead
        self._unread: deque[tuple[int, bytes]] = deque()  # (position, PCM16 at `rate`)
        self._ring: Int16 | None = None  # no longer than what is not forgotten needs
        self._read = 0  # the ring holds what lies before this
        self._forgotten = 0
        self._resampler: Resampler | None = None
        self.end = 0
        """Position after the last sample."""

    def append(self, pcm: bytes) -> None:
        """PCM16 at `rate`, in the order of time."""
        self._unread.append((self.end, pcm))
        self.end = end = self.end + round(len(pcm) // 2 * RATE / self._rate)
        if end - self._size > self._forgotten:
            self.forget(end - self._size)

    def skip_to(self, position: int) -> None:
        """Nothing was sent up to there."""
        self.end = max(self.end, position)

    def forget(self, before: int) -> None:
        """Nobody will look at what lies before this any more."""
        unread = self._unread
        while len(unread) > 1 and unread[1][0] <= before:
            unread.popleft()
        if before > self._forgotten:
            self._forgotten = before
            if self._ring is not None and self._read <= before:
                self._ring = None

    def slice(self, begin: int, end: int) -> Float:
        """float32 [end - begin], −1…1."""
        if self._unread:
            self._catch_up()
        found = np.zeros(end - begin, np.float32)
        ring = self._ring
        if ring is None:
            return found
        first = max(begin, 0, self.end - self._size, self._read - ring.size)
        last = min(end, self._read)
        while first < last:  # twice, where it goes over the ring's end
            at = first % ring.size
            count = min(last - first, ring.size - at)
            into = found[first - begin : first - begin + count]
            np.multiply(ring[at : at + count], _TO_FLOAT, out=into)
            first += count
        return found

    def close(self) -> None:
        """No more is asked."""
        self._unread.clear()
        self._ring = None
        if self._resampler is not None:
            give_back(self._resampler)
            self._resampler = None

    def _catch_up(self) -> None:
        while self._unread:
            begin, pcm = self._unread.popleft()
            pieces, end = [pcm], begin + round(len(pcm) // 2 * RATE / self._rate)
            while self._unread and self._unread[0][0] == end:
                pieces.append(self._unread.popleft()[1])
                end += round(len(pieces[-1]) // 2 * RATE / self._rate)
            self._write(begin, end, self._resampled(b"".join(pieces)))

    def _resampled(self, pcm: bytes) -> Int16:
        if self._rate == RATE:
            return to_int16(pcm)
        if self._resampler is None:
            self._resampler = borrow(self._rate, RATE)
        return self._resampler.push(to_int16(pcm))

    def _write(self, begin: int, end: int, samples: Int16) -> None:
        """At [begin, end): the resampler's first samples come late, so what is missing is missing in front."""
        ring = self._with_room_up_to(end)
        if begin > self._read:  # nothing was sent in between
            gap = max(self._read, begin - ring.size)
            _put(ring, gap, np.zeros(begin - gap, np.int16))
        length = end - begin
        if samples.size < length:
            samples = np.concatenate((np.zeros(length - samples.size, np.int16), samples))
        samples = samples[samples.size - min(length, ring.size) :]
        _put(ring, end - samples.size, samples)
        self._read = end

    def _with_room_up_to(self, end: int) -> Int16:
        """The ring, long enough for what nobody forgot and what goes on to there."""
        old = self._ring
        needed = min(self._size, end - min(self._forgotten, end))
        if old is not None and old.size >= needed:
            return old
        ring = self._ring = np.zeros(min(self._size, needed + _SPARE), np.int16)
        if old is not None:
            first = max(0, self._read - old.size)
            _put(ring, first, old[np.arange(first, self._read) % old.size])
        return ring


def _put(ring: Int16, position: int, samples: Int16) -> None:
    """No more samples than the ring holds."""
    first = position % ring.size
    head = min(samples.size, ring.size - first)
    ring[first : first + head] = samples[:head]
    ring[: samples.size - head] = samples[head:]
