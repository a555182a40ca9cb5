"""Looks at Triton that those who wait for one share, and what a request does that finds nothing before it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from gateway.triton.errors import TritonUnavailable
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import NothingFits

MISS_S = 0.5
"""A request for something unknown has Triton looked at again, but not more often than this."""


class Looks:
    """One per fleet; on the event loop."""

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        run: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        """look: at every Triton. run: makes a task of it."""
        self._do, self._run = look, run
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    async def refresh(self, *, max_age_s: float = 0.0) -> None:
        """Looks, unless the last look that worked is younger. Who comes while one is under way waits for that one.

        Raises: TritonError when no Triton answers.
        """
        looking = self._looking
        if looking is None or looking.done():
            if asyncio.get_running_loop().time() - self._looked_at < max_age_s:
                return
            looking = self._looking = self._run(self._look())
            looking.add_done_callback(_seen)
        await asyncio.wait({looking})  # its end, and not that of whoever waits for it
        if looking.cancelled():
            raise TritonUnavailable("Triton is not looked at any more: this process is about to end")
        looking.result()

    async def _look(self) -> None:
        self._looked_at = float("-inf")
        await self._do()
        self._looked_at = asyncio.get_running_loop().time()


class Takes(Protocol):
    """The part of `Hold` that is needed here."""

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo: ...


class Refreshes(Protocol):
    """The part of `Fleet` that is needed here."""

    async def refresh(self, *, max_age_s: float = 0.0) -> None: ...


async def take_after_a_look(hold: Takes, fleet: Refreshes, *, deadline_s: float | None = None) -> ModelInfo:
    """As `Hold.take`; where nothing fits, Triton may have it since, and is looked at before that is said."""
    now = asyncio.get_running_loop().time
    end = None if deadline_s is None else now() + deadline_s
    try:
        return await hold.take(deadline_s=deadline_s)
    except NothingFits:
        await fleet.refresh(max_age_s=MISS_S)
    return await hold.take(deadline_s=None if end is None else max(0.0, end - now()))


def _seen(looking: asyncio.Task[None]) -> None:
    """Its failure, also where nobody waits for it any more."""
    if not looking.cancelled():
        looking.exception()
