"""Health over gRPC, which asks nobody who they are: what a stranger does with it harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.telemetry import grpc_health
from gateway.telemetry.grpc_health import HealthService
from tests.support.h2_peer import frame, peer, prefixed, serving

STATUS = health_pb2.HealthCheckResponse
ASKED = health_pb2.HealthCheckRequest(service="")


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[HealthService, int]]:
    """(the service, its port)"""
    service = HealthService()
    async with serving() as (server, port):
        health_pb2_grpc.add_HealthServicer_to_server(service, server)
        yield service, port


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Any]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel, asyncio.timeout(10):
        yield health_pb2_grpc.HealthStub(channel)


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


async def test_watchers_hear_of_changes_also_when_another_has_left() -> None:
    async with answering() as (service, port), asking(port) as stub:
        staying, leaving = stub.Watch(ASKED), stub.Watch(ASKED)
        for watch in (staying, leaving):
            assert (await watch.read()).status == STATUS.SERVING
        leaving.cancel()
        await until(lambda: service._watchers <= 1)
        await service.set("", STATUS.NOT_SERVING)
        assert (await staying.read()).status == STATUS.NOT_SERVING
        await service.set("", STATUS.SERVING)
        assert (await staying.read()).status == STATUS.SERVING
        await service.enter_graceful_shutdown()
        assert (await staying.read()).status == STATUS.NOT_SERVING
        await service.set("", STATUS.SERVING)
        assert (await stub.Check(ASKED)).status == STATUS.NOT_SERVING
        staying.cancel()


async def test_who_does_not_read_keeps_no_drain_waiting() -> None:
    async with answering() as (service, port), peer(port) as client:
        await client.send(frame(4, 0, 0, bytes((0, 4, 0, 0, 0, 0))))  # INITIAL_WINDOW_SIZE: none
        stream = client.rules.get_next_available_stream_id()
        headers = {
            ":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "test",
            "content-type": "application/grpc", "te": "trailers",
        }  # fmt: skip
        client.rules.send_headers(stream, list(headers.items()))
        await client.flush()
        await client.send(frame(0, 1, stream, prefixed(ASKED.SerializeToString())))
        await until(lambda: service._watchers)
        await client.ping()
        async with asyncio.timeout(2):
            await service.enter_graceful_shutdown()
        async with asking(port) as stub:
            assert (await stub.Check(ASKED)).status == STATUS.NOT_SERVING


async def test_there_are_only_so_many_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "MOST_WATCHERS", 3)
    async with answering() as (service, port), asking(port) as stub:
        watches = [stub.Watch(ASKED) for _ in range(3)]
        for watch in watches:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(ASKED).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Check(ASKED)).status == STATUS.SERVING
        watches.pop().cancel()
        await until(lambda: service._watchers <= 2)
        watches.append(stub.Watch(ASKED))
        assert (await watches[-1].read()).status == STATUS.SERVING
        for watch in watches:
            watch.cancel()
