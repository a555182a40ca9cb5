"""Who may use a service, and how many at a time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic import SecretStr
from starlette.requests import HTTPConnection

from gateway.openai_audio.errors import ApiError, busy


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
    """Keys, and whether anything new is taken at all."""

    def __init__(self, keys: Sequence[SecretStr], admitting: Callable[[], Awaitable[bool]]) -> None:
        self._keys = [key.get_secret_value().encode() for key in keys if key.get_secret_value()]
        self._admitting = admitting
        self.closing = False

    def check_key(self, request: HTTPConnection) -> None:
        """Raises ApiError, 401."""
        if not self._keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        # All are compared, in the same time whatever was given.
        known = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        if any(known):
            return
        message = (
            "Incorrect API key provided: send one of the keys that this server was given."
            if given
            else "You didn't provide an API key: send it as a header, `Authorization: Bearer KEY`."
        )
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    async def check_admission(self) -> None:
        """Raises ApiError, 503, while the gateway takes nothing new: conversations go first."""
        if self.closing:
            raise busy("The server is shutting down: try another one, or again shortly.", retry_after_s=5)
        if not await self._admitting():
            raise busy("The server has all the work that it can do now: try again shortly.", retry_after_s=2)
