"""One timer for all paced sends of the process.

A sleeping task per session costs two to four times as much CPU per frame (docs/decisions/pacing.md).
A frame has several slots, and each member is called in the one that fits its frames: once per 20 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FRAME_S = 0.020

Tick = Callable[[float], None]
"""Called with the loop's time (s). Must not block and must not raise."""


class Ticker:
    """Runs only while it has members. Belongs to the event loop that first uses it."""

    def __init__(self, tick_ms: int = 5) -> None:
        self._slots: list[dict[Tick, None]] = [{} for _ in range(max(1, round(FRAME_S * 1000 / tick_ms)))]
        self._slot_of: dict[Tick, int] = {}
        self._interval = FRAME_S / len(self._slots)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._next = 0
        self.slack_s = self._interval / 2
        """A member's calls come at most so much before or after the time it asked for."""

    def join(self, member: Tick, at_s: float) -> None:
        """Called every 20 ms from now on, at times that fit `at_s` (loop time, any frame's) best."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._interval
            self._timer = loop.call_at(self._due, self._run, loop)
        slot = (self._next + round((at_s - self._due) / self._interval)) % len(self._slots)
        before = self._slot_of.get(member)
        if before != slot:
            if before is not None:
                del self._slots[before][member]
            self._slots[slot][member] = None
            self._slot_of[member] = slot

    def leave(self, member: Tick) -> None:
        slot = self._slot_of.pop(member, None)
        if slot is not None:
            del self._slots[slot][member]

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._slot_of:
            self._timer = None
            return
        now = loop.time()
        slots = len(self._slots)
        # After a stall every slot that was missed is called, once; the ticks keep to their times, or all frames
        # would come later and later after their own.
        due = int((now - self._due) / self._interval) + 1
        first = self._next + max(0, due - slots)
        self._next = (self._next + due) % slots
        self._due += due * self._interval
        self._timer = loop.call_at(self._due, self._run, loop)
        for number in range(first, first + min(due, slots)):
            for member in list(self._slots[number % slots]):
                member(now)
