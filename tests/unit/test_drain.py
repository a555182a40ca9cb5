"""A gateway that drains: what is new is refused first, replies end, idle calls are sent elsewhere, the grace counts once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.app import Gateway
from gateway.cli.client import CallFailed, VoiceClient
from gateway.session import events as ev
from load.emulators import Profile
from load.emulators.profile import LlmProfile, TtsProfile
from tests.support.caller import Caller
from tests.support.raw_http import request
from tests.unit.test_gateway_resilience import standing

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(gateway: Gateway, method: str, path: str) -> tuple[int, Any]:
    status, _, text = await request(int(gateway.admin.rpartition(":")[2]), method, path)
    return status, json.loads(text)


def says(text: str) -> Profile:
    return Profile(llm=LlmProfile(replies=(text,)))


async def replying(caller: Caller, text: str = "tell me something") -> None:
    await caller.client.send(ev.TextIn(text))
    await caller.until(ev.ReplyStarted)


async def test_what_is_new_is_refused_while_what_is_old_ends() -> None:
    profile = says("It takes a while to say all of this, and a little more.")
    async with (
        standing(profile, session={"drain_s": 20.0}) as (gateway, _),
        Caller(gateway.grpc) as busy,
        Caller(gateway.grpc) as idle,
        grpc.aio.insecure_channel(gateway.grpc) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="parley.v1.Voice"))
        assert (await watch.read()).status == SERVING
        await replying(busy)
        assert await ask(gateway, "GET", "/drain") == (200, {"status": "serving", "left": 2})
        status, body = await ask(gateway, "POST", "/drain")
        assert (status, body["status"], body["left"]) == (200, "draining", 2)
        assert 18 < body["grace_left_s"] <= 20

        assert (await watch.read()).status == NOT_SERVING
        for service in ("", "parley.v1.Voice"):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(asked)).status == NOT_SERVING
        status, body = await ask(gateway, "GET", "/readyz")
        assert (status, body["status"], body["admitting"]) == (503, "draining", False)
        assert (await ask(gateway, "GET", "/healthz"))[0] == 200, "it lives"
        with pytest.raises(CallFailed, match="shutting down") as caught:
            await VoiceClient(gateway.grpc).connect()
        assert caught.value.status is grpc.StatusCode.UNAVAILABLE
        closed = await idle.until(ev.Closed)
        assert (closed.reason, closed.retryable) == ("shutdown", True)
        assert not [a for a in busy.arrivals if isinstance(a.event, ev.Closed)]
        assert (await busy.until(ev.ReplyDone)).outcome is ev.Outcome.COMPLETED
        assert (await busy.until(ev.Closed)).reason == "shutdown"
        watch.cancel()
        assert await ask(gateway, "POST", "/drain?wait_s=10") == (200, {"status": "drained", "left": 0})


async def test_the_grace_ends_what_does_not_and_a_signal_does_not_start_it_anew() -> None:
    profile = says("On and on it goes, and never comes to its end. " * 10)
    async with standing(profile, session={"drain_s": 1.0}) as (gateway, _), Caller(gateway.grpc) as caller:
        await replying(caller)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await ask(gateway, "POST", "/drain")
        await asyncio.sleep(0.7)  # then the signal: of the grace, 0.3 s are left
        stopping = asyncio.create_task(gateway.stop())
        done = await caller.until(ev.ReplyDone)
        assert done.outcome is ev.Outcome.CANCELLED
        assert done.text
        assert done.unheard
        assert (await caller.until(ev.Closed)).reason == "shutdown"
        assert 0.9 < loop.time() - began < 1.6
        await stopping


async def test_clients_that_stay_connected_are_sent_elsewhere() -> None:
    async with standing() as (gateway, _), grpc.aio.insecure_channel(gateway.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await ask(gateway, "POST", "/drain?wait_s=5")
        async with asyncio.timeout(5):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "1e9"])
async def test_a_wait_that_is_no_time_is_refused_and_drains_nothing(wait: str) -> None:
    async with standing() as (gateway, _):
        status, body = await ask(gateway, "POST", f"/drain?wait_s={wait}")
        assert (status, body["error"]["code"]) == (400, "bad_request")
        assert "send 0 to 3600" in body["error"]["message"]
        assert (await ask(gateway, "GET", "/drain"))[1]["status"] == "serving"


async def test_a_web_page_drains_nothing() -> None:
    """A browser that looks at a page of somebody else's asks what that page wants, also of this machine."""
    async with standing() as (gateway, _), aiohttp.ClientSession() as http:
        for origin in ("https://elsewhere.example", "null", gateway.admin):
            async with http.post(f"{gateway.admin}/drain", headers={"origin": origin}) as answer:
                assert answer.status == 403
                assert (await answer.json())["error"]["code"] == "forbidden"
        assert not gateway.drain.begun


async def test_a_request_for_speech_ends_and_the_next_is_refused() -> None:
    slow = Profile(tts=TtsProfile(rtf=1.0))
    async with standing(slow, session={"drain_s": 10.0}) as (gateway, _):
        port = int(gateway.http.rpartition(":")[2])
        asked = {"model": "tts_emulated", "voice": "emulated", "input": "Hello.", "response_format": "pcm"}
        head = "POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"

        def post(body: object) -> bytes:
            text = json.dumps(body).encode()
            return f"{head}content-length: {len(text)}\r\n\r\n".encode() + text

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(asked | {"input": "It takes a while to say all of this."}))
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")  # and with it the first sound is made
            assert b" 200 " in answer.splitlines()[0]
            assert (await ask(gateway, "POST", "/drain"))[1]["left"] == 1
            late, late_writer = await asyncio.open_connection("127.0.0.1", port)
            late_writer.write(post(asked))
            refused = (await late.read()).decode()
            late_writer.close()
            assert " 503 " in refused.splitlines()[0]
            assert "shutting down" in refused
            sound = await reader.read()
        writer.close()
        assert sound.endswith(b"0\r\n\r\n"), "the whole of it"
        assert len(sound) > 24_000 * 2 * 1.5
        assert await ask(gateway, "POST", "/drain?wait_s=5") == (200, {"status": "drained", "left": 0})
