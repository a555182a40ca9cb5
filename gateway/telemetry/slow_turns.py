"""Turns that took too long: counted, and written down with their whole timeline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_APART_S = 1.0
"""At most one line in this time: when everything is slow, a line for each turn makes it slower."""


class SlowTurns:
    """One per process, on its event loop."""

    def __init__(self, limit_ms: float, count: Callable[[], None]) -> None:
        """limit_ms: a turn that took longer is slow; 0: none is. count: called for each of them."""
        self._limit_ms, self._count = limit_ms, count
        self._said_at = -_APART_S
        self._unsaid = 0

    def is_slow(self, took_ms: float) -> bool:
        return 0 < self._limit_ms < took_ms

    def tell(self, took_ms: float, timeline: Mapping[str, object]) -> None:
        """In the context of the turn, whose names the line carries. timeline: stages and what else is known of it."""
        self._count()
        now = asyncio.get_running_loop().time()
        if now - self._said_at < _APART_S:
            self._unsaid += 1
            return
        others, self._unsaid, self._said_at = self._unsaid, 0, now
        more = {"unsaid": others} if others else {}
        log.warning("slow turn: %.0f ms to its first audio", took_ms, extra={**timeline, **more})
