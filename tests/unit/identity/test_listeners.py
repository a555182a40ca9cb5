"""Who is refused, on every listener, each with its protocol's own status, told by the real clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from multidict import CIMultiDict

from gateway.identity.keys import KeyRecord, digest, new_key
from tests.unit.identity.places import Places, places

GRPC = {"missing": "UNAUTHENTICATED", "scope": "PERMISSION_DENIED", "limit": "RESOURCE_EXHAUSTED"}
HTTP = {"missing": "401", "scope": "403", "limit": "429"}
LISTENERS = {
    # place: its scope, its statuses, what a good caller gets (Triton is not there, so speech cannot answer)
    "voice": ("voice", GRPC, "ok"),
    "reflection": ("voice", GRPC, "ok"),
    "client_secrets": ("voice", HTTP, "ok"),
    "audio": ("audio", HTTP, "ok"),
    "say": ("audio", HTTP, "ok"),
    "metrics": ("metrics", HTTP, "ok"),
    "sessions": ("admin", HTTP, "ok"),
    "speech_metrics": ("metrics", HTTP, "ok"),
    "riva_asr": ("speech", GRPC, "UNAVAILABLE"),
    "riva_stream": ("speech", GRPC, "UNAVAILABLE"),
    "riva_tts": ("speech", GRPC, "UNAVAILABLE"),
    "tts_api": ("speech", GRPC, "UNAVAILABLE"),
    "speech_reflection": ("speech", GRPC, "ok"),
}


async def answer_of(here: Places, place: str, credential: str) -> str:
    answer: str = await getattr(here, place)(credential)
    return answer


async def test_who_is_refused_on_each_listener(tmp_path: Path) -> None:
    async with places(tmp_path) as here:
        issuer, keys = here.issuer, here.keys
        every = "voice audio speech metrics admin"
        refused = {
            "no credentials": "",
            "unknown": new_key(),
            "expired": keys["expired"],
            "revoked": keys["revoked"],
            "wrong issuer": issuer.token(iss="https://elsewhere.example", scope=every),
            "wrong audience": issuer.token(aud="others", scope=every),
            "expired token": issuer.token(in_s=-60, scope=every),
        }
        for place, (scope, statuses, good) in LISTENERS.items():
            answers = {what: await answer_of(here, place, given) for what, given in refused.items()}
            assert answers == dict.fromkeys(refused, statuses["missing"]), place
            another = keys["audio" if scope != "audio" else "voice"]
            assert await answer_of(here, place, another) == statuses["scope"], place
            assert await answer_of(here, place, issuer.token(scope="other")) == statuses["scope"], place
            assert await answer_of(here, place, keys[scope]) == good, place
            assert await answer_of(here, place, issuer.token(scope=scope)) == good, place


async def test_health_is_open_and_nothing_else_is(tmp_path: Path) -> None:
    async with places(tmp_path) as here, aiohttp.ClientSession() as http:
        for base, paths in (
            (here.gateway.http, {"/healthz": 200, "/metrics": 401, "/v1/sessions": 401, "/x": 401}),
            (here.gateway.admin, {"/healthz": 200, "/readyz": 200, "/admitz": 200, "/drain": 401, "/x": 401}),
            (
                here.speech["speech_http"],
                {"/healthz": 200, "/readyz": 503, "/metrics/": 401, "//metrics": 401},
            ),
        ):
            for path, status in paths.items():
                async with http.get(f"{base}{path}") as answer:
                    assert answer.status == status, (base, path)
                    assert ("www-authenticate" in answer.headers) == (status == 401)
        for address in (here.gateway.grpc, here.speech["riva"]):
            async with grpc.aio.insecure_channel(address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                await stub.Check(health_pb2.HealthCheckRequest())


async def test_the_stand_in_takes_its_own_key_alone(tmp_path: Path) -> None:
    async with places(tmp_path) as here:
        for given, status in (("", 401), ("wrong", 401), (here.keys["all"], 200)):
            client = here.openai(given, here.llm)
            if status == 200:
                assert [model.id async for model in client.models.list()] == ["stand-in"]
                continue
            for call in (client.models.list(), client.chat.completions.create(model="m", messages=[])):
                with pytest.raises(openai.AuthenticationError) as caught:
                    await call
                assert caught.value.code == "invalid_api_key"


async def test_metrics_may_be_opened(tmp_path: Path) -> None:
    async with places(tmp_path, open_metrics=True) as here:
        assert await here.metrics("") == "ok"
        assert await here.speech_metrics("") == "ok"
        assert await here.sessions("") == "401"


@pytest.mark.parametrize("place", ["voice", "client_secrets", "audio", "riva_asr", "riva_stream", "tts_api"])
async def test_over_the_limit(place: str, tmp_path: Path) -> None:
    async with places(tmp_path, requests_per_min=2) as here:
        scope, statuses, good = LISTENERS[place]
        for _ in range(2):
            assert await answer_of(here, place, here.keys[scope]) == good
        assert await answer_of(here, place, here.keys[scope]) == statuses["limit"]
        assert await answer_of(here, place, here.keys["all"]) == good  # another key's calls are its own
        assert await answer_of(here, "metrics", here.keys["metrics"]) == "ok"


async def test_a_limit_of_the_key_itself_holds_on_every_listener(tmp_path: Path) -> None:
    async with places(tmp_path) as here:
        tight = {place: new_key() for place in LISTENERS}
        for place, key in tight.items():
            scopes = (LISTENERS[place][0],)
            here.records.append(KeyRecord(f"tight-{place}", digest(key), scopes, per_minute=1))
        here.write()
        for place, (_, statuses, good) in LISTENERS.items():
            assert await answer_of(here, place, tight[place]) == good, place
            assert await answer_of(here, place, tight[place]) == statuses["limit"], place


async def test_of_two_credentials_none_is_picked(tmp_path: Path) -> None:
    """Somebody in between may have looked at the other one."""
    async with places(tmp_path) as here, aiohttp.ClientSession() as http:
        good, bad = here.keys["all"], new_key()
        for name, word in (("authorization", "Bearer "), ("x-api-key", "")):
            for first, second in ((good, bad), (bad, good)):
                pairs = [(name, word + first), (name, word + second)]
                for url in (f"{here.gateway.http}/v1/models", f"{here.gateway.admin}/metrics"):
                    async with http.get(url, headers=CIMultiDict(pairs)) as answer:
                        assert answer.status == 401, (name, url)
                for address, method in (
                    (here.gateway.grpc, "/parley.v1.Voice/Converse"),
                    (here.speech["riva"], "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"),
                ):
                    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(10):
                        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)(
                            metadata=tuple(pairs)
                        )
                        await call.done_writing()
                        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED, (name, address)


async def test_when_to_come_again_is_said(tmp_path: Path) -> None:
    async with places(tmp_path, requests_per_min=1) as here:
        client = here.openai(here.keys["audio"], f"{here.gateway.http}/v1")
        await client.models.list()
        with pytest.raises(openai.RateLimitError, match="may begin 1 calls a minute") as caught:
            await client.models.list()
        assert caught.value.code == "rate_limit_exceeded"
        assert 55 <= int(caught.value.response.headers["retry-after"]) <= 60
        async with grpc.aio.insecure_channel(here.gateway.grpc) as channel:
            metadata = (("x-api-key", here.keys["voice"]),)
            for _ in range(2):
                call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(
                    "/parley.v1.Voice/Converse"
                )(metadata=metadata)
                await call.done_writing()
                code = await call.code()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        told = {str(name): value for name, value in await call.trailing_metadata() or ()}
        assert 55_000 <= int(told["grpc-retry-pushback-ms"]) <= 60_000
