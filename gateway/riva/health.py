"""grpc.health.v1 that follows the models: a service serves while Triton has a model for it ready."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2

from gateway.riva.models import ASR, TTS, SpeechModels
from gateway.telemetry.grpc_health import HealthService
from gateway.triton.errors import TritonError

SERVICES = {
    "nvidia.riva.asr.RivaSpeechRecognition": ASR,
    "nvidia.riva.tts.RivaSpeechSynthesis": TTS,
}
_FRESH_S = 1.0


class Health(HealthService):
    """`Check` looks at Triton when the last look is old; `Watch` is told by `update()`."""

    def __init__(self, models: SpeechModels) -> None:
        super().__init__()
        self._models = models

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        await self.update(max_age_s=_FRESH_S)
        found: health_pb2.HealthCheckResponse = await super().Check(request, context)
        return found

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
