"""How many calls one key may have open, and begin in a minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.identity.caller import Caller, Denied

_MINUTE_S = 60.0
_SWEEP_AT = 1_024
"""So many keys counted: those without an open call or a call in the last minute are forgotten."""


class Counting(Protocol):
    """Who counts: this process, or the parent of several."""

    async def enter(self, caller: Caller) -> None:
        """One more call of the caller. Raises Denied, and counts nothing, when that is too many."""
        ...

    def leave(self, caller: Caller) -> None:
        """One less; never blocks."""
        ...


class Limits:
    """Counts by `Caller.id`; belongs to one event loop, on which a decision cannot be interrupted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds, growing: the loop's `time`."""
        self._clock = clock
        self._open: dict[str, int] = {}
        self._begun: dict[str, deque[float]] = {}
        self._sweep_at = _SWEEP_AT

    async def enter(self, caller: Caller) -> None:
        self.enter_now(caller)

    def enter_now(self, caller: Caller) -> None:
        """Raises Denied, and counts nothing."""
        if caller.max_sessions and self._open.get(caller.id, 0) >= caller.max_sessions:
            raise Denied(
                "limit",
                f"{caller.name} has {caller.max_sessions} calls open, which is all it may: end one, or try again later",
                retry_after_s=1.0,
            )
        if caller.per_minute:
            self._begin(caller)
        if caller.max_sessions:
            self._open[caller.id] = self._open.get(caller.id, 0) + 1

    def leave(self, caller: Caller) -> None:
        self.leave_id(caller.id)

    def leave_id(self, caller_id: str, calls: int = 1) -> None:
        left = self._open.get(caller_id, 0) - calls
        if left > 0:
            self._open[caller_id] = left
        else:
            self._open.pop(caller_id, None)

    def _begin(self, caller: Caller) -> None:
        now = self._clock()
        begun = self._begun.setdefault(caller.id, deque())
        while begun and begun[0] <= now - _MINUTE_S:
            begun.popleft()
        if len(begun) >= caller.per_minute:
            # The limit may have been lowered while more had begun: the wait is for as many as are too many.
            wait_s = begun[len(begun) - caller.per_minute] + _MINUTE_S - now
            raise Denied(
                "limit",
                f"{caller.name} may begin {caller.per_minute} calls a minute: try again in {wait_s:.0f} s",
                retry_after_s=max(wait_s, 0.001),
            )
        begun.append(now)
        if len(self._begun) > self._sweep_at:
            self._begun = {one: times for one, times in self._begun.items() if times[-1] > now - _MINUTE_S}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._begun))
