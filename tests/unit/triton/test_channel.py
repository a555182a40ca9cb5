"""Channels to a part that is far away, or that takes its time: real TLS through a slow line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.tls.client import client_security
from gateway.triton.channel import open_channel
from load.emulators.proxied import Weather
from load.emulators.proxy import Proxy
from tests.support.certificates import Folder, server_leaf

SLOW = Weather(latency_ms=150)
"""Each way."""


@asynccontextmanager
async def slow_line(folder: Folder | None) -> AsyncIterator[Proxy]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if folder is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (folder.key.read_bytes(), folder.cert.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    proxy = Proxy(f"127.0.0.1:{port}")
    await proxy.open()
    proxy.set_weather(SLOW)
    try:
        yield proxy
    finally:
        await proxy.close()
        await server.stop(0)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_part_behind_a_slow_line_is_reached_by_the_first_call(tmp_path: Path, tls: bool) -> None:
    folder = None
    if tls:
        ca = trustme.CA()
        folder = Folder(tmp_path / "tls")
        folder.put(server_leaf(ca), ca)
    security = client_security(folder.client_tls(), "Triton", on=True) if folder is not None else None
    async with slow_line(folder) as proxy:
        channel = open_channel(proxy.address, security=security)
        try:
            ask = health_pb2.HealthCheckRequest()
            reply = await health_pb2_grpc.HealthStub(channel).Check(ask, timeout=10)
        finally:
            await channel.close()
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert proxy.accepted == 1, "the first attempt was given its time"


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy"])
async def test_loopback_is_not_reached_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    async with slow_line(None) as line:
        line.clear()
        for address in (line.address, line.address.replace("127.0.0.1", "localhost")):
            channel = open_channel(address)
            try:
                ask = health_pb2.HealthCheckRequest()
                reply = await health_pb2_grpc.HealthStub(channel).Check(ask, timeout=10)
            finally:
                await channel.close()
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
