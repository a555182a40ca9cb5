"""Whether this process takes a new session: refused before the ones it has suffer.

Fed with readings, at a steady pace, of how far the detector is behind and how late the event loop
runs. Overload shows there first. A single bad reading is none: batches, a collection, a scheduler's
pause make readings of 130 to 150 ms at healthy load. What lasts counts.
"""

from __future__ import annotations

import logging
from collections import deque
from statistics import median

log = logging.getLogger(__name__)

BEAT_S = 0.05
"""The pace of the readings."""
_READINGS = 7
"""Their median decides: four bad ones, 0.2 s, close the door."""
_REOPEN = 0.5
"""It opens again when the median has fallen to this share of the limit …"""
_CALM_S = 2.0
"""… and has stayed there for so long."""
_REOPEN_PER_S = 4.0
"""Then it opens slowly, since those refused come back together, and what a session costs is seen only
once it runs: so many a second at first, twice as many with every calm second."""
_FREE_PER_S = 128.0
"""A rate that needs no watching."""


class Admission:
    """One per process. `beat` is called every BEAT_S; `admit` is asked for each new session."""

    def __init__(self, *, backlog_ms: float, lag_ms: float) -> None:
        """Limits of the detector's backlog and of the event loop's lag; 0 ignores that signal."""
        self._signals = _Signal("detector", backlog_ms), _Signal("event loop", lag_ms)
        self._closed = False
        self._calm_s = 0.0
        self._rate = _FREE_PER_S
        self._tokens = 0.0

    @property
    def open(self) -> bool:
        """False while new sessions are refused. Just after that they are let in slowly."""
        return not self._closed

    @property
    def backlog_ms(self) -> float:
        """The detector's backlog as it has lasted: the median of the last readings."""
        return self._signals[0].lasting

    def admit(self) -> str:
        """Empty when a session may start, which it then does; else why not, for people."""
        if self._closed:
            worst = max(self._signals, key=lambda signal: signal.load)
            return f"this server is overloaded (its {worst.name} is {worst.lasting:.0f} ms behind)"
        if self._rate < _FREE_PER_S:
            if self._tokens < 1:
                return "this server was overloaded and takes new sessions slowly"
            self._tokens -= 1
        return ""

    def beat(self, *, backlog_ms: float, lag_ms: float) -> None:
        """One reading of both signals."""
        for signal, value in zip(self._signals, (backlog_ms, lag_ms), strict=True):
            signal.read(value)
        load = max(signal.load for signal in self._signals)
        if load > 1:
            self._close()
        elif self._closed:
            self._calm_s = self._calm_s + BEAT_S if load <= _REOPEN else 0.0
            if self._calm_s >= _CALM_S:
                self._closed, self._rate, self._tokens = False, _REOPEN_PER_S, 1.0
                log.warning("taking new sessions again")
        elif self._rate < _FREE_PER_S:
            self._tokens = min(self._tokens + self._rate * BEAT_S, max(1.0, self._rate * BEAT_S))
            if load <= _REOPEN:
                self._rate *= 2**BEAT_S

    def _close(self) -> None:
        self._calm_s = 0.0
        if not self._closed:
            self._closed = True
            log.warning("refusing new sessions: %s", self.admit())


class _Signal:
    """How far something is behind, ms."""

    def __init__(self, name: str, limit: float) -> None:
        self.name = name
        self._limit = limit
        self._readings = deque([0.0] * _READINGS, _READINGS)
        self.lasting = 0.0
        """Median of the last readings."""

    def read(self, value: float) -> None:
        self._readings.append(value)
        self.lasting = median(self._readings)

    @property
    def load(self) -> float:
        """Of the limit: more than 1 is too much."""
        return self.lasting / self._limit if self._limit else 0.0
