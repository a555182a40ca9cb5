"""Draining a process: begun once, by an operator or by a signal, and over when nothing is left of its work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.telemetry.pages import fresh, refusal

LONGEST_WAIT_S = 3_600.0


class Drain:
    """Of one process."""

    def __init__(self, grace_s: float, work: Callable[[], Awaitable[None]], left: Callable[[], int]) -> None:
        """work: refuses what is new, and returns when what was there has ended, at the latest after the grace.
        left: how many sessions, calls and requests are open."""
        self._grace_s, self._work, self.left = grace_s, work, left
        self._task: asyncio.Task[None] | None = None
        self._until = 0.0

    @property
    def begun(self) -> bool:
        return self._task is not None

    @property
    def over(self) -> bool:
        return self._task is not None and self._task.done()

    def begin(self) -> None:
        """Does nothing the second time: the grace does not start anew."""
        if self._task is None:
            self._until = asyncio.get_running_loop().time() + self._grace_s
            self._task = asyncio.ensure_future(self._work())

    async def done(self) -> None:
        """Begins it if need be; returns when it is over."""
        self.begin()
        assert self._task is not None
        await asyncio.shield(self._task)

    def overdue_s(self) -> float:
        """For how long it has gone on beyond its grace; 0 while it has not."""
        if self._task is None or self._task.done():
            return 0.0
        return max(0.0, asyncio.get_running_loop().time() - self._until)

    def describe(self) -> dict[str, object]:
        """For the page: `status` is serving, draining or drained."""
        if self._task is None:
            return {"status": "serving", "left": self.left()}
        if self._task.done():
            return {"status": "drained", "left": self.left()}
        left_s = max(0.0, self._until - asyncio.get_running_loop().time())
        return {"status": "draining", "left": self.left(), "grace_left_s": round(left_s, 1)}


def drain_route(drain: Drain) -> Route:
    """`GET /drain` says how it stands; `POST /drain` begins it, and with `?wait_s=` answers when it is over, or
    after so long."""

    async def page(request: Request) -> Response:
        if request.method == "POST":
            if "origin" in request.headers:
                return refusal(403, "a web page may not drain this process: do it with `parley drain`")
            asked = request.query_params.get("wait_s", "0")
            try:
                wait_s = float(asked)
            except ValueError:
                wait_s = math.nan
            if not 0 <= wait_s <= LONGEST_WAIT_S:
                return refusal(400, f"wait_s is no time: send 0 to {LONGEST_WAIT_S:g} seconds")
            drain.begin()
            try:
                async with asyncio.timeout(wait_s):
                    await drain.done()
            except TimeoutError:
                pass
        return fresh(drain.describe())

    return Route("/drain", page, methods=["GET", "POST"])
