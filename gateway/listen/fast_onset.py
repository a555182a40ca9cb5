"""A first, cheap guess that the user began to speak over a reply: loudness alone, 20 ms at a time.

It costs a few microseconds and waits for no window and no batch, so it is ahead of the detector by 30
to 150 ms; and it is wrong about every loud sound. So it only ever makes playout hold its breath
(session/suspicion.py). What it compares with is the loudest that was heard lately while a reply was
audible and nobody spoke: that is the room's noise without an echo, the echo's peaks with one, and a
keyboard once it was taken for a user.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from gateway.audio.resample import MAX_RATE
from gateway.settings import BargeInSettings

_PCM16 = np.dtype("<i2")
_scratch = np.empty(MAX_RATE // 50, np.float32)
"""For the event loop's thread, within one call: memory that is warm."""
_FADE = 10 ** (-3.0 / 10 / 50)
"""The loudest of the past counts 3 dB less with every second: an echo stays known over a pause."""
_UNDECIDED = 15
"""Blocks (300 ms) that may yet turn out to be the user's speech: nothing is learnt from them before."""
_FIRST = 30
"""Blocks (600 ms) of a session's first reply in which its echo, if there is one, shows."""
_GOES_ON = 10**-1.6
"""A voice stays within 16 dB of its loudest block so far; a key or a cup fades by 30 dB in two."""


class FastOnset:
    """One per session; fed only while a reply is audible that may be interrupted."""

    __slots__ = (
        "_blocks",
        "_least",
        "_loudest",
        "_margin",
        "_peak",
        "_rest",
        "_size",
        "_undecided",
        "_unknown",
    )

    def __init__(self, settings: BargeInSettings, rate: int) -> None:
        """rate: of what it is fed, Hz."""
        self._size = rate // 50  # samples of a block
        self._margin = 10 ** (settings.fast_margin_db / 10)
        self._least = 10 ** (settings.fast_least_dbfs / 10) * 32768.0**2
        self._loudest = 0.0  # power of int16 samples, as all below
        self._undecided: deque[float] = deque()
        self._unknown = _FIRST
        self._rest = b""
        self._peak = 0.0  # of the loud sound that goes on
        self._blocks = 0  # of it so far

    @property
    def sustained(self) -> bool:
        """A loud sound goes on: it is no click."""
        return self._blocks >= 2

    def feed(self, pcm: bytes) -> bool:
        """PCM16, any number of whole samples. True when something in it is too loud for what is known."""
        size = 2 * self._size
        if not self._rest and len(pcm) == size:
            return self._block(pcm)  # as almost every client sends it
        data = self._rest + pcm
        found, at = False, 0
        while at + size <= len(data):
            found = self._block(data[at : at + size]) or found
            at += size
        self._rest = data[at:]
        return found

    def forget(self) -> None:
        """What was heard last was the user's voice, or was not followed: nothing is learnt from it."""
        self._undecided.clear()
        self._rest = b""
        self._peak, self._blocks = 0.0, 0

    def _block(self, pcm: bytes) -> bool:
        samples = _scratch[: self._size]
        samples[:] = np.frombuffer(pcm, _PCM16)
        power = float(samples.dot(samples)) / self._size
        loudest, undecided = self._loudest * _FADE, self._undecided
        undecided.append(power)
        if len(undecided) > _UNDECIDED:
            loudest = max(loudest, undecided.popleft())
        if self._unknown:
            self._unknown -= 1
            loudest = max(loudest, power)
        self._loudest = loudest
        if power <= self._least or power <= loudest * self._margin:
            self._peak, self._blocks = 0.0, 0
            return False
        self._peak = max(self._peak, power)
        self._blocks = self._blocks + 1 if power > self._peak * _GOES_ON else 0
        return True
