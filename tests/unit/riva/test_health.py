"""Health of the speech service while it drains: who watches is told, and does not hold up its end."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.riva.health import Health

STATUS = health_pb2.HealthCheckResponse
RECOGNITION = "nvidia.riva.asr.RivaSpeechRecognition"


class Ready:
    """Models that are there."""

    async def refresh(self, *, max_age_s: float = 0.0) -> None: ...

    def ready(self, family: str) -> list[str]:
        return [family]


async def test_who_watches_is_told_and_let_go() -> None:
    server = grpc.aio.server()
    health = Health(Ready())  # type: ignore[arg-type]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.update()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [
            stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", RECOGNITION, "no.such")
        ]
        first = [(await watch.read()).status for watch in watches]
        assert first == [STATUS.SERVING, STATUS.SERVING, STATUS.SERVICE_UNKNOWN]
        *known, unknown = watches
        # read from before the end on: grpc.aio drops what a call has not read when its status arrives
        news = [asyncio.create_task(watch.read()) for watch in known]
        await health.leave()
        await health.update()
        for service in ("", RECOGNITION):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert (await stub.Check(asked)).status == STATUS.NOT_SERVING, "whatever the models say"
        loop = asyncio.get_running_loop()
        began = loop.time()
        await server.stop(10.0)
        assert loop.time() - began < 2.0
        assert [(await told).status for told in news] == [STATUS.NOT_SERVING, STATUS.NOT_SERVING]
        for watch in watches:
            assert await watch.read() is grpc.aio.EOF
        assert await unknown.code() is grpc.StatusCode.OK
