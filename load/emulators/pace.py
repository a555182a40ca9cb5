"""Waiting, thriftily: first answers on time to the millisecond, all others on one shared tick."""

from __future__ import annotations

import asyncio
import math

TICK_S = 0.005


class Pace:
    """One per process. Everything that is due in the same tick is woken by one timer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, list[asyncio.Future[None]]] = {}

    def now(self) -> float:
        return self._loop.time()

    async def until(self, due: float) -> None:
        """Returns at `due` (loop time), or at once when it has passed."""
        if due > self._loop.time():
            await self.at(due)

    def at(self, due: float) -> asyncio.Future[None]:
        """A future that is done at `due`; it may be done or cancelled before."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_at(due, _finish, future)
        return future

    def tick(self, due: float) -> asyncio.Future[None]:
        """The same in the first tick at or after `due`."""
        future: asyncio.Future[None] = self._loop.create_future()
        number = math.ceil(due / TICK_S)
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = []
            self._loop.call_at(number * TICK_S, self._fire, number)
        slot.append(future)
        return future

    def _fire(self, number: int) -> None:
        for future in self._slots.pop(number):
            _finish(future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
