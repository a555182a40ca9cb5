"""What every OpenAI-compatible chat endpoint keeps: our stand-in, and the emulated one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from gateway.settings import LlmSettings, StandInSettings
from gateway.telemetry.http_server import serve_http
from gateway.think.llm import Message
from gateway.think.openai_llm import OpenAiLlm
from gateway.think.stand_in import build_app
from load.emulators import emulators, read_profile
from tests.support.raw_http import request

ASK: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "count to nine"},
]


@dataclass
class Endpoint:
    url: str
    client: AsyncOpenAI
    model: str = ""

    async def raw(self, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, str]:
        status, _, text = await request(urlsplit(self.url).port or 0, "POST", path, body)
        return status, text

    def body(self, **more: object) -> bytes:
        return json.dumps({"model": self.model, "messages": ASK} | more).encode()


@asynccontextmanager
async def _stand_in() -> AsyncIterator[str]:
    http = serve_http(build_app(StandInSettings(), now=datetime.now), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{await http.start()}/v1"
    finally:
        await http.stop()


@asynccontextmanager
async def _emulated() -> AsyncIterator[str]:
    async with emulators(read_profile("zero")) as addresses:
        yield addresses.llm


@pytest_asyncio.fixture(params=[_stand_in, _emulated], ids=["stand-in", "emulated"])
async def endpoint(request: pytest.FixtureRequest) -> AsyncIterator[Endpoint]:
    async with request.param() as url:
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=10)
        made = Endpoint(url, client)
        try:
            made.model = (await client.models.list()).data[0].id
            yield made
        finally:
            await client.close()


async def test_a_stream_is_a_role_the_text_and_a_finish(endpoint: Endpoint) -> None:
    stream = await endpoint.client.chat.completions.create(model=endpoint.model, messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" and len(chunk.choices) == 1 for chunk in chunks)
    assert all(chunk.model == endpoint.model and chunk.usage is None for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert not chunks[0].choices[0].delta.content
    assert all(chunk.choices[0].delta.content for chunk in chunks[1:-1])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len(chunks) > 4


async def test_the_wire_is_server_sent_events_and_ends_with_done(endpoint: Endpoint) -> None:
    status, text = await endpoint.raw(endpoint.body(stream=True))
    assert status == 200
    events = [line for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event[6:])["object"] == "chat.completion.chunk" for event in events[:-1])


async def test_usage_comes_last_where_it_is_asked_for(endpoint: Endpoint) -> None:
    stream = await endpoint.client.chat.completions.create(
        model=endpoint.model, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert not chunks[-1].choices
    assert usage is not None
    assert usage.completion_tokens == sum(
        bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks
    )
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_a_whole_reply(endpoint: Endpoint) -> None:
    reply = await endpoint.client.chat.completions.create(model=endpoint.model, messages=ASK)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 1


async def test_a_limit_of_tokens_is_kept(endpoint: Endpoint) -> None:
    reply = await endpoint.client.chat.completions.create(model=endpoint.model, messages=ASK, max_tokens=2)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


async def test_a_reply_ends_before_a_stop(endpoint: Endpoint) -> None:
    whole = await endpoint.client.chat.completions.create(model=endpoint.model, messages=ASK)
    stop = [" "]
    cut = await endpoint.client.chat.completions.create(model=endpoint.model, messages=ASK, stop=stop)
    assert " " in (whole.choices[0].message.content or "")
    assert " " not in (cut.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{no json", "not JSON"),
        (b"[]", "object"),
        (b"{}", "model"),
        (b'{"model": "MODEL"}', "messages"),
        (b'{"model": "MODEL", "messages": []}', "messages"),
        (b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "stop": 1}', "stop"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_told_so(endpoint: Endpoint, body: bytes, words: str) -> None:
    status, text = await endpoint.raw(body.replace(b"MODEL", endpoint.model.encode()))
    assert status == 400
    error = json.loads(text)["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


async def test_the_official_client_understands_a_refusal(endpoint: Endpoint) -> None:
    with pytest.raises(openai.BadRequestError):
        await endpoint.client.chat.completions.create(model=endpoint.model, messages=[])


async def test_the_gateways_own_client_is_content(endpoint: Endpoint) -> None:
    llm = OpenAiLlm(LlmSettings(base_url=endpoint.url, model=endpoint.model))
    try:
        await llm.check()
        for _ in range(2):
            parts = [part async for part in llm.stream([Message("user", "count to nine")])]
            assert len(parts) > 3
            assert all(isinstance(part, str) for part in parts)
    finally:
        await llm.close()


async def test_many_at_once_do_not_mix(endpoint: Endpoint) -> None:
    async def ask() -> tuple[str, set[str]]:
        stream = await endpoint.client.chat.completions.create(
            model=endpoint.model, messages=ASK, stream=True
        )
        chunks = [chunk async for chunk in stream]
        return chunks[0].id, {chunk.id for chunk in chunks}

    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert len({first for first, _ in answers}) == 8
    assert all(ids == {first} for first, ids in answers)
