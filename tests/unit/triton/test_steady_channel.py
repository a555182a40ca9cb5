"""A channel whose connection falls silent: the next calls dial, those that were heard of do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.triton.errors import TritonError
from gateway.triton.repository import Repository
from gateway.triton.steady_channel import open_steady_channel
from load.emulators.proxy import Proxy


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def ServerLive(self, request: Any, context: Any) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> None:
        await asyncio.sleep(60)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Proxy, Repository]]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    proxy = Proxy(f"127.0.0.1:{port}")
    await proxy.open()
    channel = open_steady_channel(proxy.address)
    try:
        yield proxy, Repository(channel)
    finally:
        await channel.close()
        await proxy.close()
        await server.stop(None)


async def test_a_connection_that_vanished_costs_one_deadline() -> None:
    async with served() as (proxy, repository):
        assert await repository.is_live()
        assert proxy.vanish()
        assert not await repository.is_live(deadline_s=0.2)
        assert await repository.is_live()
        assert proxy.accepted == 2


async def test_a_slow_answer_among_others_is_no_silence() -> None:
    async with served() as (proxy, repository):
        slow = asyncio.create_task(repository.load("tts_slow", deadline_s=0.3))
        await asyncio.sleep(0)
        assert await repository.is_live()
        with pytest.raises(TritonError):
            await slow
        assert await repository.is_live()
        assert proxy.accepted == 1
