"""What a client and a balancer see of a server that takes no new sessions for now."""

from __future__ import annotations

import asyncio
import json

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.session.events import Closed, Connection, Ready
from gateway.session.manager import Refused
from gateway.settings import SessionSettings
from gateway.transports import voice_grpc
from gateway.transports.voice_grpc import SERVICE, VoiceServer
from tests.unit.transports.test_voice_grpc import START, converse, hear, refused, say, serving

RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "60s",
                "maxBackoff": "60s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
"""Minutes of backoff: a retry that comes at once came when the server said."""


class Door:
    """Refuses the first `times` sessions."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self, connection: Connection) -> None:
        if self.left:
            self.left -= 1
            raise Refused("overloaded", "this server is overloaded: try again", retryable=True)
        connection.send(Ready("s1", 16_000, 24_000, "en-US", ""))
        connection.send(Closed("client"))


async def test_a_refusal_says_when_to_come_back() -> None:
    async with serving(Door(1)) as (channel, _):
        call = converse(channel)
        await say(call, START)
        assert await refused(call) == (grpc.StatusCode.UNAVAILABLE, "this server is overloaded: try again")
        trailing = await call.trailing_metadata()
        assert trailing is not None
        assert 1_000 <= int(str(trailing["grpc-retry-pushback-ms"])) <= 3_000


async def test_the_retries_that_grpc_itself_makes_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_grpc, "_RETRY_LATER_MS", (20, 40))
    door = Door(2)
    server = VoiceServer(_Scripted(door), SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    options = [("grpc.service_config", json.dumps(RETRIES)), ("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.insecure_channel(address, options=options) as channel, asyncio.timeout(10):
            call = converse(channel)
            await say(call, START)
            assert (await hear(call)).ready.session_id == "s1"
            assert door.left == 0
    finally:
        await server.stop(0)


class _Scripted:
    def __init__(self, door: Door) -> None:
        self.serve = door.__call__


async def test_health_tells_a_service_that_takes_nobody_from_a_server_that_is_gone() -> None:
    server = VoiceServer(_Scripted(Door(0)), SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    up, refusing = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(10):
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == up
            server.set_admitting(False)
            assert (await watch.read()).status == refusing
            whole = await stub.Check(health_pb2.HealthCheckRequest(service=""))
            assert whole.status == up
            server.set_admitting(True)
            assert (await watch.read()).status == up
            watch.cancel()
    finally:
        await server.stop(0)
