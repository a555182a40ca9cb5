"""Loads that never end: Triton waits for a model's process as long as it lives, on one of its four threads for loads."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.triton.process import Stub

_SLACK_S = 2.0
"""Who waits for the load gives up first, and says so."""


class Overdue:
    """Tells which processes have been starting a model for too long; Triton frees the thread when they end.

    Not seen: a copy of a version that serves, as in a repair; Triton's index says that it is ready.
    """

    def __init__(self, load_s: float) -> None:
        self._most_s = load_s + _SLACK_S
        self._since: dict[int, float] = {}
        self._settled: set[int] = set()
        """Those whose model was not being loaded when they were looked at."""

    def look(self, stubs: Mapping[int, Stub], loading: Collection[str], now: float) -> list[int]:
        """Pids that should end.

        stubs: as they were before Triton was asked which models are `loading`.
        now: the event loop's time; a process counts from the first look that has it.
        """
        self._since = {pid: self._since.get(pid, now) for pid in stubs}
        self._settled = {
            pid for pid, stub in stubs.items() if pid in self._settled or stub.model not in loading
        }
        return [
            pid
            for pid, since in self._since.items()
            if pid not in self._settled and now - since > self._most_s
        ]
