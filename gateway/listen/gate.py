"""Adaptive noise gate in front of the detector: silences what is not clearly above the room's noise."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

import numpy as np
import numpy.typing as npt

from gateway.audio.pcm import power_dbfs, rms_dbfs
from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW
from gateway.settings import GateSettings

Float = npt.NDArray[np.float32]

_WINDOW_MS = WINDOW * 1000 / RATE
_DIGITAL_SILENCE_DBFS = -90.0
"""Muted input and suppressed echo say nothing about the room's noise."""
_LOWEST_FLOOR_DBFS = -65.0
"""A floor below this would open the gate for noise nobody hears."""
_FIRST_WINDOWS = 6
"""Before so many levels are known, the gate lets everything pass."""

_SILENCE = np.zeros(WINDOW, np.float32)
_SILENCE.flags.writeable = False


class NoiseGate:
    """One per session. What it silences becomes zeros of the same length: the detector's clock goes on."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._levels: deque[float] = deque(maxlen=max(1, round(settings.window_s * 1000 / _WINDOW_MS)))
        self._sorted: list[float] = []
        self._hold = 0
        self.floor_dbfs = _LOWEST_FLOOR_DBFS
        """Percentile of the recent levels."""
        self.open = True
        """Whether the last window passed."""

    def process(self, window: Float, factor: float = 1.0, power: float | None = None) -> Float:
        """float32 [512] in; the same or zeros out. `factor` multiplies the margin (dB), by state.

        power: the window's mean square, where that is known already."""
        if not self._settings.enabled:
            return window
        level = rms_dbfs(window) if power is None else power_dbfs(power)
        if level > _DIGITAL_SILENCE_DBFS:
            self._learn(level)
        if level > self.floor_dbfs + self._settings.margin_db * factor or (
            level > _DIGITAL_SILENCE_DBFS and len(self._levels) <= _FIRST_WINDOWS
        ):
            self._hold = round(self._settings.hold_ms / _WINDOW_MS)
            self.open = True
        elif self._hold > 0:
            self._hold -= 1
            self.open = True
        else:
            self.open = False
        return window if self.open else _SILENCE

    def _learn(self, level: float) -> None:
        if len(self._levels) == self._levels.maxlen:
            del self._sorted[bisect_left(self._sorted, self._levels[0])]
        self._levels.append(level)
        insort(self._sorted, level)
        rank = round((len(self._sorted) - 1) * self._settings.percentile / 100)
        self.floor_dbfs = max(_LOWEST_FLOOR_DBFS, self._sorted[rank])
