"""How often, and after what pause, a transfer is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.triton.pulling.errors import PullError, Unreachable

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
BUDGET_S = 120.0
FIRST_TRIES = 3
"""Tries of a host that never answered: offline is said soon."""

Sleep = Callable[[float], Awaitable[None]]


class Again(Exception):
    """This try failed and another may do better; `error` is what is raised when there is none."""

    def __init__(self, error: PullError, after_s: float | None = None) -> None:
        """after_s: what the server asked for."""
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


class Retry:
    """Of one transfer. Failures in a row are counted; the pauses of all of it come out of one budget."""

    def __init__(
        self,
        sleep: Sleep = asyncio.sleep,
        *,
        budget_s: float = BUDGET_S,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._sleep, self._left_s, self._say = sleep, budget_s, say
        self._failures = 0

    def progress(self) -> None:
        """Bytes came: the next failure is the first again."""
        self._failures = 0

    async def after(self, failed: Again, *, answered: bool) -> None:
        """Wait, or raise its error. answered: whether the host ever said anything; one that did not is tried without
        a word."""
        tries = len(PAUSES_S) + 1 if answered or not isinstance(failed.error, Unreachable) else FIRST_TRIES
        self._failures += 1
        if self._failures >= tries:
            raise failed.error
        pause = PAUSES_S[self._failures - 1] * random.uniform(0.8, 1.2)
        pause = max(pause, failed.after_s or 0.0)
        if pause > self._left_s:
            raise failed.error
        self._left_s -= pause
        if self._say is not None and answered:
            self._say(
                f"{failed.error}; trying again in {pause:.0f} s" if pause >= 1 else f"{failed.error}; again"
            )
        await self._sleep(pause)
