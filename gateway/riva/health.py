"""grpc.health.v1 that follows the models: a service serves while Triton has a model for it ready."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health, health_pb2

from gateway.riva.models import ASR, TTS, SpeechModels
from gateway.triton.errors import TritonError

SERVICES = {
    "nvidia.riva.asr.RivaSpeechRecognition": ASR,
    "nvidia.riva.tts.RivaSpeechSynthesis": TTS,
}
_FRESH_S = 1.0


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """`Check` looks at Triton when the last look is old; `Watch` is told by `update()`."""

    def __init__(self, models: SpeechModels) -> None:
        super().__init__()
        self._models = models
        self._leaves = False
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        await self.update(max_age_s=_FRESH_S)
        return await super().Check(request, context)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Not the library's own: there, one watcher that leaves takes the news from all others of its service."""
        last = None
        while True:
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            status = self._server_status.get(request.service, unknown)
            if status != last:
                last = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            if self._leaves:
                return
            if status == self._server_status.get(request.service, unknown):
                await asyncio.shield(self._changed)

    async def set(self, service: str, status: Any) -> None:
        before = self._server_status.get(service)
        await super().set(service, status)
        if self._server_status.get(service) != before:
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

    async def update(self, *, max_age_s: float = 0.0) -> None:
        """Sets every service's status; "" serves while any of them does."""
        try:
            await self._models.refresh(max_age_s=max_age_s)
            serving = {name: bool(self._models.ready(family)) for name, family in SERVICES.items()}
        except TritonError:
            serving = dict.fromkeys(SERVICES, False)
        serving[""] = any(serving.values())
        for name, up in serving.items():
            status = health_pb2.HealthCheckResponse
            await self.set(name, status.SERVING if up else status.NOT_SERVING)
