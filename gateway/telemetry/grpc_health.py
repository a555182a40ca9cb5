"""grpc.health.v1 for anybody, also for those who mean harm: it is open where all else asks for a credential."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

MOST_WATCHERS = 128
"""Calls of `Watch` at a time; more are refused, or they would take the places of calls that have a credential."""


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]
    """The library's, but for `Watch`. There, one watcher that leaves takes the news from all others of its service, and
    one that does not read keeps whoever sets a status waiting, which is how a drain begins."""

    def __init__(self) -> None:
        super().__init__()
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers = 0
        self._leaves = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        if self._watchers >= MOST_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MOST_WATCHERS} calls watch this server's health, which is all it takes: ask with Check",
            )
        self._watchers += 1
        try:
            await self._tell_watcher(request.service, context)
        finally:
            self._watchers -= 1

    async def _tell_watcher(self, service: str, context: Any) -> None:
        last = None
        while True:
            status = self._status(service)
            if status != last:
                last = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            if self._leaves:
                return
            if status == self._status(service):
                await asyncio.shield(self._changed)

    def _status(self, service: str) -> Any:
        return self._server_status.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    async def _set(self, service: str, status: Any) -> None:
        """What the library's `set` and `enter_graceful_shutdown` come down to."""
        if self._server_status.get(service) != status:
            self._server_status[service] = status
            self._tell()

    async def leave(self) -> None:
        """For ever NOT_SERVING: who watches is told, and let go, or a shutdown would wait for them."""
        await self.enter_graceful_shutdown()
        self._leaves = True
        self._tell()

    def _tell(self) -> None:
        """Watchers look again."""
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
