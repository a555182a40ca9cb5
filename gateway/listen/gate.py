"""Adaptive noise gate in front of the detector: silences what is not clearly above the room's noise."""

from __future__ import annotations

import math
from array import array

import numpy as np

from gateway.audio.pcm import Float
from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW
from gateway.settings import GateSettings

_WINDOW_MS = WINDOW * 1000 / RATE
_DIGITAL_SILENCE_DBFS = -90.0
"""Muted input and suppressed echo say nothing about the room's noise."""
_DIGITAL_SILENCE = 10 ** (_DIGITAL_SILENCE_DBFS / 10)
_LOWEST_FLOOR_DBFS = -65.0
"""A floor below this would open the gate for noise nobody hears."""
_FIRST_WINDOWS = 6
"""Before so many levels are known, the gate lets everything pass."""

_SILENCE = np.zeros(WINDOW, np.float32)
_SILENCE.flags.writeable = False


class NoiseGate:
    """One per session. What it silences becomes zeros of the same length: the detector's clock goes on."""

    __slots__ = (
        "_count",
        "_enabled",
        "_hold",
        "_hold_windows",
        "_levels",
        "_margin_db",
        "_next",
        "_raw_floor",
        "_share",
        "floor_dbfs",
        "open",
    )

    def __init__(self, settings: GateSettings) -> None:
        self._enabled, self._margin_db = settings.enabled, settings.margin_db
        self._share = settings.percentile / 100
        self._hold_windows = round(settings.hold_ms / _WINDOW_MS)
        # Numbers in one piece, not a list of objects: with many sessions every object is a cache miss.
        self._levels = array("d", bytes(8 * max(1, round(settings.window_s * 1000 / _WINDOW_MS))))
        self._next = self._count = 0
        self._raw_floor = _LOWEST_FLOOR_DBFS
        self._hold = 0
        self.floor_dbfs = _LOWEST_FLOOR_DBFS
        """Percentile of the recent levels."""
        self.open = True
        """Whether the last window passed."""

    def process(self, window: Float, factor: float = 1.0) -> Float:
        """float32 [512] in; the same or zeros out. `factor` multiplies the margin (dB), by state."""
        power = float(np.dot(window, window)) / window.size
        return window if self.passes(power, factor) else _SILENCE

    def passes(self, power: float, factor: float = 1.0) -> bool:
        """The same of a window of which the mean square is known: whether it passes."""
        if not self._enabled:
            return True
        if power > _DIGITAL_SILENCE:  # not so of NaN
            level = 10 * math.log10(power)
            self._learn(level)
            if level > self.floor_dbfs + self._margin_db * factor or self._count <= _FIRST_WINDOWS:
                self._hold = self._hold_windows
                self.open = True
                return True
        if self._hold > 0:
            self._hold -= 1
            self.open = True
            return True
        self.open = False
        return False

    def _learn(self, level: float) -> None:
        at, levels = self._next, self._levels
        size = len(levels)
        old, levels[at] = levels[at], level
        self._next = at + 1 if at + 1 < size else 0
        if self._count < size:
            self._count += 1
        else:
            floor = self._raw_floor
            if (old > floor and level > floor) or (old < floor and level < floor):
                return  # as many as before lie below it, and as many above
        rank = round((self._count - 1) * self._share)
        # Only so many of the places are filled at first; they are filled from the beginning.
        floor = float(np.partition(np.frombuffer(levels, np.float64, self._count), rank)[rank])
        self._raw_floor, self.floor_dbfs = floor, max(_LOWEST_FLOOR_DBFS, floor)
