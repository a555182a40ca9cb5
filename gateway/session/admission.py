"""Whether this process takes a new session: refused before the ones it has suffer.

Fed with readings, at a steady pace, of how far the detector is behind, how late the event loop runs
its timers, and how much of the time its thread is busy. A single bad reading is no overload: batches, a
collection, a scheduler's pause make backlogs of 130 to 150 ms at healthy load. What lasts counts.

The thread's time matters most where the wire is what costs: audio that nobody comes to read waits in
gRPC's buffers, where neither the detector nor a timer sees it (docs/decisions/admission.md).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from statistics import fmean, median

log = logging.getLogger(__name__)

BEAT_S = 0.05
"""The pace of the readings."""
FEW = 4
"""So many sessions are always taken: what troubles a process with so few is not its sessions."""
_READINGS = 7
"""The median of so many backlogs decides: four bad ones, 0.2 s, close the door."""
_BUSY_READINGS = 20
"""A second's mean of the busy share."""
_CALM, _CALM_BUSY = 0.5, 0.9
"""The door opens again when every value has fallen to this share of its limit …"""
_CALM_S = 2.0
"""… and has stayed there for so long."""
_REOPEN_PER_S = 4.0
"""Then it opens slowly, since those refused come back together, and what a session costs is seen only
once it runs: so many a second at first, twice as many with every calm second."""
_FREE_PER_S = 128.0
"""A rate that needs no watching."""


class Admission:
    """One per process. `beat` is called every BEAT_S; `admit` is asked for each new session."""

    def __init__(self, *, backlog_ms: float, lag_ms: float, busy: float) -> None:
        """Limits of the detector's backlog, the event loop's lag, the share of the time (0…1) that its
        thread is busy; 0 ignores that signal."""
        self._backlog = _Signal("its detector is {:.0f} ms behind", backlog_ms, _READINGS, median, _CALM)
        self._lag = _Signal("its event loop is {:.0f} ms behind", lag_ms, _READINGS, median, _CALM)
        self._busy = _Signal(
            "its event loop is busy {:.0%} of the time", busy, _BUSY_READINGS, fmean, _CALM_BUSY
        )
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
        return self._backlog.lasting

    def admit(self) -> str:
        """Empty when a session may start, which it then does; else why not, for people."""
        if self._closed:
            return f"this server is overloaded ({max(self._signals, key=lambda signal: signal.load)})"
        if self._rate < _FREE_PER_S:
            if self._tokens < 1:
                return "this server was overloaded and takes new sessions slowly"
            self._tokens -= 1
        return ""

    def beat(self, *, backlog_ms: float, lag_ms: float, busy: float) -> None:
        """One reading of each. busy: share of the time since the last one."""
        self._backlog.read(backlog_ms)
        self._lag.read(lag_ms)
        self._busy.read(busy)
        calm = all(signal.is_calm for signal in self._signals)
        if any(signal.load > 1 for signal in self._signals):
            self._close()
        elif self._closed:
            self._calm_s = self._calm_s + BEAT_S if calm else 0.0
            if self._calm_s >= _CALM_S:
                self._closed, self._rate, self._tokens = False, _REOPEN_PER_S, 1.0
                log.warning("taking new sessions again")
        elif self._rate < _FREE_PER_S:
            self._tokens = min(self._tokens + self._rate * BEAT_S, max(1.0, self._rate * BEAT_S))
            if calm:
                self._rate *= 2**BEAT_S

    @property
    def _signals(self) -> tuple[_Signal, ...]:
        return self._backlog, self._lag, self._busy

    def _close(self) -> None:
        self._calm_s = 0.0
        if not self._closed:
            self._closed = True
            log.warning("refusing new sessions: %s", self.admit())


class _Signal:
    """One thing that grows with load; as text, what it says now."""

    def __init__(
        self, text: str, limit: float, readings: int, lasting: Callable[[Iterable[float]], float], calm: float
    ) -> None:
        self._text, self._limit, self._calm, self._lasts = text, limit, calm, lasting
        self._readings = deque([0.0] * readings, readings)
        self.lasting = 0.0
        """What the last readings say together."""

    def read(self, value: float) -> None:
        self._readings.append(value)
        self.lasting = self._lasts(self._readings)

    def __str__(self) -> str:
        return self._text.format(self.lasting)

    @property
    def load(self) -> float:
        """Of the limit: more than 1 is too much."""
        return self.lasting / self._limit if self._limit else 0.0

    @property
    def is_calm(self) -> bool:
        return self.load <= self._calm
