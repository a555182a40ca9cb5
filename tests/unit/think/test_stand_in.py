"""The stand-in's HTTP API, through the official client, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from gateway.settings import LlmSettings, StandInSettings
from gateway.telemetry.http_server import serve_http
from gateway.think.llm import Message
from gateway.think.openai_llm import OpenAiLlm
from gateway.think.stand_in import build_app
from gateway.think.stand_in_replies import INTRODUCTION
from gateway.think.stand_in_story import STORY
from tests.support.raw_http import request

COUNT: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "count to three"},
]
LONG: list[ChatCompletionMessageParam] = [{"role": "user", "content": "tell me a story"}]


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=10)

    async def stats(self) -> dict[str, int]:
        return dict(json.loads((await self.raw("GET", "/stand-in/stats"))[1]))

    async def raw(self, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
        status, _, text = await request(self.port, method, path, body)
        return status, text


@asynccontextmanager
async def standing_in(**settings: float) -> AsyncIterator[Server]:
    app = build_app(StandInSettings(**settings), now=lambda: datetime(2026, 7, 14, 14, 5))
    http = serve_http(app, "127.0.0.1", 0)
    server = Server(await http.start())
    try:
        yield server
    finally:
        await server.client.close()
        await http.stop()


async def test_models() -> None:
    async with standing_in() as server:
        assert [model.id async for model in server.client.models.list()] == ["stand-in"]


async def test_health() -> None:
    async with standing_in() as server:
        assert await server.raw("GET", "/healthz") == (200, '{"status":"ok"}')


async def test_whole_reply() -> None:
    async with standing_in() as server:
        reply = await server.client.chat.completions.create(model="stand-in", messages=COUNT)
    assert reply.choices[0].message.content == "One, two, three."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.object == "chat.completion"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 6
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 6


async def test_stream() -> None:
    async with standing_in() as server:
        stream = await server.client.chat.completions.create(
            model="stand-in", messages=COUNT, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "One, two, three."
    assert sum(map(bool, texts)) == 6
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    assert len({chunk.id for chunk in chunks}) == 1


async def test_no_usage_unless_asked_for() -> None:
    async with standing_in() as server:
        stream = await server.client.chat.completions.create(model="stand-in", messages=COUNT, stream=True)
        assert all([chunk.choices and chunk.usage is None async for chunk in stream])


async def test_sync_client() -> None:
    async with standing_in() as server:

        def talk() -> tuple[str, str]:
            with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
                whole = client.chat.completions.create(model="stand-in", messages=COUNT)
                stream = client.chat.completions.create(model="stand-in", messages=COUNT, stream=True)
                parts = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                return whole.choices[0].message.content or "", parts

        assert await asyncio.to_thread(talk) == ("One, two, three.", "One, two, three.")


async def test_first_reply_introduces_itself() -> None:
    async with standing_in() as server:
        reply = await server.client.chat.completions.create(model="stand-in", messages=LONG)
    assert (reply.choices[0].message.content or "").startswith(INTRODUCTION)


async def test_content_in_parts() -> None:
    async with standing_in() as server:
        reply = await server.client.chat.completions.create(
            model="stand-in",
            messages=[*COUNT[:2], {"role": "user", "content": [{"type": "text", "text": "count to two"}]}],
        )
    assert reply.choices[0].message.content == "One, two."


async def test_max_tokens_and_stop() -> None:
    async with standing_in() as server:
        create = server.client.chat.completions.create
        short = await create(model="stand-in", messages=COUNT, max_tokens=2)
        newer = await create(model="stand-in", messages=COUNT, max_completion_tokens=1)
        stopped = await create(model="stand-in", messages=COUNT, stop=["xyz", " three"])
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("One,", "length")
    assert newer.choices[0].message.content == "One"
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("One, two,", "stop")


@pytest.mark.parametrize("by_header", [False, True])
async def test_delay_and_rate(by_header: bool) -> None:
    timing = {"first_token_ms": 200.0, "tokens_per_s": 50.0}
    headers = {"x-stand-in-first-token-ms": "200", "x-stand-in-tokens-per-s": "50"} if by_header else {}
    loop = asyncio.get_running_loop()
    async with standing_in(**({} if by_header else timing)) as server:
        began = loop.time()
        stream = await server.client.chat.completions.create(
            model="stand-in", messages=COUNT, stream=True, extra_headers=headers
        )
        times = [loop.time() - began async for chunk in stream if chunk.choices[0].delta.content]
    assert times[0] >= 0.2
    assert times[-1] >= 0.2 + 5 / 50 - 0.001
    assert times[-1] < 2


async def _until(server: Server, key: str, value: int) -> dict[str, int]:
    async with asyncio.timeout(5):
        while (stats := await server.stats())[key] != value:
            pass
    return stats


async def test_a_client_that_leaves_stops_the_making_of_tokens() -> None:
    async with standing_in(tokens_per_s=100) as server:
        llm = OpenAiLlm(LlmSettings(base_url=f"{server.url}/v1"))
        stream = llm.stream([Message("user", "tell me a story")])
        assert await anext(stream) == "I"
        assert (await server.stats())["streams_open"] == 1
        await stream.aclose()
        stats = await _until(server, "cancelled", 1)
        assert stats["streams_open"] == 0
        assert stats["tokens_made"] < 50 < len(STORY.split())
        await asyncio.sleep(0.05)  # five tokens' time
        assert await server.stats() == stats
        await llm.close()


async def test_a_client_that_leaves_before_a_whole_reply_stops_it() -> None:
    async with standing_in(first_token_ms=60_000) as server:
        asking = asyncio.create_task(server.client.chat.completions.create(model="stand-in", messages=LONG))
        await _until(server, "streams_open", 1)
        asking.cancel()
        assert (await _until(server, "cancelled", 1))["tokens_made"] == 0


async def test_a_whole_stream_is_not_counted_as_cancelled() -> None:
    async with standing_in() as server:
        llm = OpenAiLlm(LlmSettings(base_url=f"{server.url}/v1"))
        await llm.check()
        for _ in range(3):
            text = "".join([str(part) async for part in llm.stream([Message("user", "tell me a story")])])
            assert text.endswith("to say thank you.")
        stats = await server.stats()
        await llm.close()
    assert (stats["requests"], stats["streams_open"], stats["cancelled"]) == (3, 0, 0)


async def test_wrong_model() -> None:
    async with standing_in() as server:
        with pytest.raises(openai.NotFoundError) as caught:
            await server.client.chat.completions.create(model="gpt", messages=COUNT)
    assert caught.value.code == "model_not_found"
    assert "stand-in" in caught.value.message


_USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{", None),
        ("[]", None),
        ("", None),
        ("[" * 100_000, None),
        ({"messages": [_USER]}, "model"),
        ({"model": "stand-in"}, "messages"),
        ({"model": "stand-in", "messages": []}, "messages"),
        ({"model": "stand-in", "messages": "hi"}, "messages"),
        ({"model": "stand-in", "messages": ["hi"]}, "messages[0]"),
        ({"model": "stand-in", "messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"model": "stand-in", "messages": [_USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"model": "stand-in", "messages": [_USER], "max_tokens": 0}, "max_tokens"),
        ({"model": "stand-in", "messages": [_USER], "stream": "yes"}, "stream"),
        ({"model": "stand-in", "messages": [_USER], "stream_options": 3}, "stream_options"),
        ({"model": "stand-in", "messages": [_USER], "stop": [1]}, "stop"),
        ({"model": "stand-in", "messages": [_USER], "n": 2}, "n"),
    ],
)
async def test_bad_requests_are_refused_in_the_apis_shape(body: Any, param: str | None) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    async with standing_in() as server:
        status, text = await server.raw("POST", "/v1/chat/completions", raw.encode())
        error = json.loads(text)["error"]
        assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert error["message"]
        assert (await server.stats())["requests"] == 0


async def test_other_refusals() -> None:
    async with standing_in() as server:
        assert (await server.raw("GET", "/nothing"))[0] == 404
        assert (await server.raw("GET", "/v1/chat/completions"))[0] == 405
        status, text = await server.raw("POST", "/v1/chat/completions", b" " * (2 * 1024 * 1024 + 1))
        assert status == 413
        assert "error" in json.loads(text)


async def test_lone_surrogates_harm_nothing() -> None:
    body = b'{"model": "stand-in", "messages": [{"role": "user", "content": "a \\ud800 b"}]}'
    async with standing_in() as server:
        assert (await server.raw("POST", "/v1/chat/completions", body))[0] == 200


async def test_bad_header() -> None:
    async with standing_in() as server:
        for value in ("soon", "-1", "nan", "inf"):
            with pytest.raises(openai.BadRequestError):
                await server.client.chat.completions.create(
                    model="stand-in", messages=COUNT, extra_headers={"x-stand-in-first-token-ms": value}
                )
