"""How many may use a service at a time, and whether it takes new work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from gateway.openai_audio.errors import busy


class Gate:
    """Of one kind of request; belongs to the event loop's thread."""

    def __init__(self, most: int, what: str) -> None:
        """what: they are, as a sentence names them: "transcriptions"."""
        self._most, self._what = most, what
        self.inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """For the length of a request. Raises ApiError when too many are inside."""
        if self.inside >= self._most:
            raise busy(
                f"This server takes {self._most} {self._what} at a time, and all are taken: try again shortly.",
                status=429,
            )
        self.inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self._empty.set()

    async def empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()


class Door:
    """Whether anything new is taken at all."""

    def __init__(self, admitting: Callable[[], Awaitable[bool]]) -> None:
        self._admitting = admitting
        self.closing = False

    async def check_admission(self) -> None:
        """Raises ApiError, 503, while the gateway takes nothing new: conversations go first."""
        if self.closing:
            raise busy("The server is shutting down: try another one, or again shortly.", retry_after_s=5)
        if not await self._admitting():
            raise busy("The server has all the work that it can do now: try again shortly.", retry_after_s=2)
