"""A lease on one server, and what is asked under it: each request on the version that is newest when it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gateway.telemetry.context import Spot
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.infer import SequenceCall
from gateway.triton.line import Connection
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import Lease
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate
from gateway.triton.routing.figures import Request
from gateway.triton.routing.server import Server
from gateway.triton.routing.servers import Use

if TYPE_CHECKING:
    from gateway.triton.fleet.fleet import Calls, Fleet


class Seat:
    """`take()`, then `leave()` or `doubt()` once."""

    __slots__ = ("_fleet", "_use", "lease", "manager", "server")

    def __init__(
        self, fleet: Fleet, use: Use[Calls], server: Server[Calls], manager: ModelManager, lease: Lease
    ) -> None:
        self._fleet, self._use, self.server = fleet, use, server
        self.manager, self.lease = manager, lease
        fleet.held[self._key] += 1

    @property
    def _key(self) -> tuple[str, str]:
        return self.lease.info.name, self.server.address

    @property
    def info(self) -> ModelInfo:
        return self.lease.info

    @classmethod
    async def take(cls, fleet: Fleet, candidate: Candidate, deadline_s: float | None) -> Seat:
        """Loads the model where it is not resident. Raises: see `Manager.lease`."""
        use = fleet.servers.use(candidate.server)
        server = await use.__aenter__()
        try:
            manager = server.models
            assert isinstance(manager, ModelManager)
            lease = await manager.lease(candidate.info.name, any_version=True, deadline_s=deadline_s)
        except BaseException as error:
            await use.__aexit__(type(error), error, None)
            raise
        return cls(fleet, use, server, manager, lease)

    async def request(self) -> Lease:
        """For one request: the newest version, which stays until it is released. Raises: TritonUnavailable."""
        return await self.manager.request(self.info.name)

    def leave(self) -> None:
        self._fleet.held[self._key] -= 1
        self.lease.release()
        self._fleet.run(self._use.__aexit__(None, None, None))

    async def doubt(self, error: TritonError) -> None:
        """A request failed: whoever looks after the server, and after the model, finds out why. Leaves."""
        self._fleet.held[self._key] -= 1
        try:
            await self._use.__aexit__(type(error), error, None)
            finding_out = self.manager.suspect(self.info.name, error)
            # Nobody waits for a model that has just been waited for in vain, nor for a server that is lost.
            if isinstance(error, TritonTimeout) or not self.server.takes_calls:
                self._fleet.run(finding_out)
            else:
                await finding_out
        finally:
            # Held until then: a server that forgot its models gets back those that are held.
            self.lease.release()


def leave_if_taken(taking: asyncio.Task[Seat]) -> None:
    """For a seat that nobody waits for any more."""
    if not taking.cancelled() and taking.exception() is None:
        taking.result().leave()


class HeldSequence:
    """A `SequenceCall` whose first answer, failures and silences are noted."""

    __slots__ = ("_asked", "_call", "_connection", "_request", "_span")

    def __init__(
        self,
        call: SequenceCall,
        asked: ExitStack,
        connection: Connection[Calls],
        request: Request,
        span: Spot | None = None,
    ) -> None:
        """asked: what is left when the last answer has come, or none will. span: ended with it."""
        if span is not None:
            asked.callback(span.end)
        self._span = span
        self._call, self._asked = call, asked
        self._connection, self._request = connection, request

    async def infer(
        self,
        audio: NDArray[np.float32],
        *,
        start: bool = False,
        end: bool = False,
        language: str = "",
        hints: Sequence[str] = (),
        deadline_s: float,
    ) -> dict[str, Array]:
        """See `SequenceCall.infer`."""
        since = asyncio.get_running_loop().time()
        try:
            answer = await self._call.infer(
                audio, start=start, end=end, language=language, hints=hints, deadline_s=deadline_s
            )
        except TritonError as error:
            if isinstance(error, TritonTimeout):
                self._connection.silent_since(since)
            if self._span is not None:
                self._span.end(error=str(error))
            self._asked.__exit__(type(error), error, error.__traceback__)
            raise
        self._connection.heard()
        self._request.answered()
        if end:
            self._asked.close()
        return answer

    def give_up(self) -> None:
        """See `SequenceCall.give_up`."""
        self._call.give_up()
        self._asked.close()
