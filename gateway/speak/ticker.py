"""One timer for all paced sends of the process.

A sleeping task per session costs two to four times as much CPU per frame (docs/decisions/pacing.md).
Members are spread over the slots of a frame, so each is called once per 20 ms.
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
        self._interval = FRAME_S / len(self._slots)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._slot = 0

    def join(self, member: Tick) -> None:
        """From the next slot of its own on; a member is added once."""
        if any(member in slot for slot in self._slots):
            return
        min(self._slots, key=len)[member] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._interval
            self._timer = loop.call_at(self._due, self._run, loop)

    def leave(self, member: Tick) -> None:
        for slot in self._slots:
            slot.pop(member, None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        if not any(self._slots):
            self._timer = None
            return
        now = loop.time()
        self._slot = (self._slot + 1) % len(self._slots)
        for member in list(self._slots[self._slot]):
            member(now)
        # After a stall the timer does not chase the ticks it missed: members catch up by themselves.
        self._due = max(self._due + self._interval, now + self._interval / 2)
        self._timer = loop.call_at(self._due, self._run, loop)
