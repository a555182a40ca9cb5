"""Doors, lists, paths and shutdown of the OpenAI-compatible app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from gateway.listen.asr import AsrError
from gateway.speak.tts import TtsError
from tests.support.raw_http import request
from tests.unit.openai_audio.parts import Scene, http, scene, wav

SPEECH: dict[str, Any] = {"model": "tts-1", "voice": "default", "input": "Hello."}
CALLS: list[Callable[[openai.AsyncOpenAI], Awaitable[Any]]] = [
    lambda client: client.audio.speech.create(**SPEECH),
    lambda client: client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(1.0))),
]


async def _models(client: openai.AsyncOpenAI) -> Any:
    return await client.models.list()


async def test_the_models_are_listed_and_shown() -> None:
    async with scene() as s:
        listed = [model async for model in s.client().models.list()]
        one = await s.client().models.retrieve("tts_fake")
        alias = await s.client().models.retrieve("whisper-1")
        with pytest.raises(openai.NotFoundError) as caught:
            await s.client().models.retrieve("gpt-7")
    assert [model.id for model in listed] == [
        *("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
        *("tts_fake", "asr_fake", "asr_german"),
    ]
    assert {(model.object, model.owned_by) for model in listed} == {("model", "parley")}
    assert one == listed[6]
    assert one.model_extra == {"family": "tts", "voices": ["ann", "bob"], "languages": ["en-US"]}
    assert alias.created > 1_700_000_000
    assert caught.value.code == "model_not_found"


async def test_a_part_that_is_down_leaves_the_list_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as s:

        async def down() -> Any:
            raise TtsError("no Triton answers")

        async def deaf() -> Any:
            raise AsrError("no recogniser answers")

        monkeypatch.setattr(s.tts, "models", down)
        ids = [model.id async for model in s.client().models.list()]
        assert "asr_fake" in ids
        assert "tts_fake" not in ids
        with pytest.raises(openai.InternalServerError, match="No Triton answers"):
            await CALLS[0](s.client())
        monkeypatch.setattr(s.asr, "models", deaf)
        assert [model.id async for model in s.client().models.list()] == ids[:6]
        with pytest.raises(openai.InternalServerError, match="No recogniser answers"):
            await s.client().audio.transcriptions.create(model="asr_fake", file=("a.wav", wav(1.0)))


async def test_conversations_go_first() -> None:
    async with scene() as s:
        s.admitting = False
        for call in CALLS:
            with pytest.raises(openai.InternalServerError, match="all the work") as caught:
                await call(s.client())
            assert caught.value.response.headers["retry-after"] == "2"
        assert [model async for model in s.client().models.list()]
        s.admitting = True
        await CALLS[0](s.client())


async def test_a_shutdown_lets_requests_end_and_takes_no_new_ones() -> None:
    async with scene() as s:
        s.asr.wait = asyncio.Event()
        running = asyncio.ensure_future(CALLS[1](s.client()))
        await s.asr.begun.wait()
        draining = asyncio.create_task(s.app.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            await CALLS[0](s.client())
        assert not draining.done()
        s.asr.wait.set()
        assert (await running).text == "word0 again"
        await draining


async def test_a_shutdown_does_not_wait_for_ever() -> None:
    async with scene() as s:
        s.tts.chunk_s = 0.05
        async with s.client().audio.speech.with_streaming_response.create(
            **SPEECH | {"input": "Hello. " * 500}, response_format="pcm"
        ):
            await s.app.drain(0.05)


PATHS = [
    ("GET", "/audio/speech", 405, "method_not_supported"),
    ("PUT", "/audio/transcriptions", 405, "method_not_supported"),
    ("DELETE", "/models/tts-1", 405, "method_not_supported"),
    ("POST", "/audio/translations", 404, "unknown_url"),
    ("GET", "/audio", 404, "unknown_url"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), PATHS)
async def test_other_paths_and_methods(method: str, path: str, status: int, code: str) -> None:
    async with scene() as s, http(s) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert f"/v1{path}" in error["message"]


HALF_A_PAIR = (
    rb'{"model": "tts-1", "voice": "default", "input": "Hello \ud83d."}',
    rb'{"model": "\ud83d", "voice": "default", "input": "Hello."}',
)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"a":' * 100_000, b"nan", *HALF_A_PAIR]
)
async def test_bad_json(body: bytes) -> None:
    async with scene() as s, http(s) as client:
        head = {"content-type": "application/json"}
        answer = await client.post("/audio/speech", content=body, headers=head)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]["message"] or "json" in answer.text
        assert (await client.post("/audio/speech", content=body)).status_code == 415
        large = await client.post("/audio/speech", content=b" " * (2 << 20), headers=head)
        assert large.status_code == 413


async def test_our_own_fault_is_a_500_that_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as s:

        async def broken() -> Any:
            raise RuntimeError("a secret")

        monkeypatch.setattr(s.tts, "models", broken)
        for call in (CALLS[0], _models):
            with pytest.raises(openai.InternalServerError) as caught:
                await call(s.client())
            assert caught.value.body == {
                "message": "The server failed to answer; its log says why.",
                "type": "server_error",
                "param": None,
                "code": None,
            }
            assert caught.value.response.headers["connection"] == "close"
    assert "a secret" in caplog.text


async def test_the_public_address_serves_these_and_nothing_for_operators() -> None:
    from gateway.openai_audio.app import PATHS as SERVED
    from gateway.telemetry.http_server import serve_http
    from gateway.transports.http import build_public

    made = Scene()
    server = serve_http(build_public(dict.fromkeys(SERVED, made.app)), "127.0.0.1", 0)
    made.port = await server.start()
    try:
        async with http(made) as client:
            assert (await client.get("/models")).json()["object"] == "list"
            assert (await client.get("/models/tts-1")).json()["id"] == "tts-1"
            assert (await client.get("/audio/none")).json()["error"]["code"] == "unknown_url"
            for path in ("/v1/sessions", "/metrics", "/readyz", "/admitz", "/none"):
                _, _, text = await request(made.port, "GET", path)
                assert json.loads(text)["error"]["code"] == "not_found"
        await CALLS[0](made.client())
    finally:
        await made.close()
        await server.stop()
