"""The road to the model is there before it is needed, and it is used again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.settings import LlmSettings
from gateway.think.llm import Message
from gateway.think.openai_llm import OpenAiLlm

ASK = [Message("system", "Be brief."), Message("user", "Count.")]


class KeepingServer:
    """Keeps its connections; knows how many there were."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.peers: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.may_end = asyncio.Event()
        """Cleared: replies stop short of their finish."""
        self.may_end.set()
        app = web.Application()
        app.add_routes([web.get("/v1/models", self._models), web.post("/v1/chat/completions", self._chat)])
        self.server = TestServer(app)

    @property
    def connections(self) -> int:
        return len(set(self.peers))

    def _note(self, request: web.Request) -> None:
        assert request.transport is not None
        self.asked.append(request.path)
        self.peers.append(request.transport.get_extra_info("peername"))

    async def _models(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({"object": "list", "data": []})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(json.loads(await request.read()))
        self._note(request)
        response = web.StreamResponse()
        await response.prepare(request)
        for word in ("One", " two"):
            await response.write(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % word.encode())
        await self.may_end.wait()
        await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        return response


@pytest.fixture
async def server() -> AsyncIterator[KeepingServer]:
    keeping = KeepingServer()
    await keeping.server.start_server()
    yield keeping
    await keeping.server.close()


def client(server: KeepingServer, **changes: Any) -> OpenAiLlm:
    return OpenAiLlm(LlmSettings(base_url=str(server.server.make_url("/v1")), **changes))


async def warmed(llm: OpenAiLlm) -> None:
    await asyncio.gather(*llm._warming)


async def ask(llm: OpenAiLlm) -> None:
    assert [part async for part in llm.stream(ASK)] == ["One", " two"]


async def test_the_first_question_finds_a_connection(server: KeepingServer) -> None:
    llm = client(server)
    llm.warm_up()
    await warmed(llm)
    await ask(llm)
    await ask(llm)
    assert (server.connections, server.asked[0]) == (1, "/v1/models")
    await llm.close()


async def test_nothing_is_sent_while_a_connection_is_at_hand(server: KeepingServer) -> None:
    llm = client(server)
    llm.warm_up()
    llm.warm_up()  # one is on its way
    await warmed(llm)
    llm.warm_up()
    await ask(llm)
    llm.warm_up()
    assert not llm._warming
    assert server.asked == ["/v1/models", "/v1/chat/completions"]
    await llm.close()


async def test_a_connection_in_use_is_none_at_hand(server: KeepingServer) -> None:
    llm = client(server)
    server.may_end.clear()
    stream = llm.stream(ASK)
    await anext(stream)
    llm.warm_up()
    await warmed(llm)
    assert server.connections == 2
    await stream.aclose()
    server.may_end.set()
    await llm.close()


async def test_after_idleness_a_connection_is_made_again(
    server: KeepingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.think.openai_llm._KEPT_S", 0.0)
    llm = client(server)
    for _ in range(2):
        llm.warm_up()
        await warmed(llm)
    assert len(server.asked) == 2
    await llm.close()


async def test_it_can_be_switched_off(server: KeepingServer) -> None:
    llm = client(server, warm_up=False)
    llm.warm_up()
    assert not llm._warming
    await llm.close()


async def test_the_prefix_is_sent_once_for_one_token(server: KeepingServer) -> None:
    llm = client(server, warm_up=False)
    for _ in range(3):
        llm.warm_up(ASK[:1])
    await warmed(llm)
    assert [(body["max_tokens"], len(body["messages"])) for body in server.bodies] == [(1, 1)]
    llm.warm_up([Message("system", "Be long.")])
    await warmed(llm)
    assert len(server.bodies) == 2
    await llm.close()


async def test_a_warm_up_that_fails_is_silent_and_one_that_hangs_ends_with_the_client() -> None:
    nobody = OpenAiLlm(LlmSettings(base_url="http://127.0.0.1:9/v1"))
    nobody.warm_up()
    await warmed(nobody)
    await nobody.close()

    silent = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    llm = OpenAiLlm(LlmSettings(base_url=f"http://127.0.0.1:{port}/v1"))
    llm.warm_up()
    await asyncio.sleep(0)
    await asyncio.wait_for(llm.close(), 2)
    assert not llm._warming
    silent.close()


async def test_a_connection_the_server_dropped_costs_no_backoff() -> None:
    """A kept connection may be closed by its server just as the next question leaves."""
    loop = asyncio.get_running_loop()
    drops = 1

    async def flaky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drops
        await reader.readuntil(b"\r\n\r\n")
        if drops:
            drops -= 1
            writer.transport.abort()
            return
        words = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(words), words))
        writer.close()

    dropping = await asyncio.start_server(flaky, "127.0.0.1", 0)
    port = dropping.sockets[0].getsockname()[1]
    llm = OpenAiLlm(LlmSettings(base_url=f"http://127.0.0.1:{port}/v1"))
    began = loop.time()
    assert [part async for part in llm.stream(ASK)] == ["Hi"]
    assert loop.time() - began < 0.07
    await llm.close()
    dropping.close()


async def test_a_base_url_may_have_a_query(server: KeepingServer) -> None:
    url = server.server.make_url("/v1").with_query({"api-version": "3"})
    llm = OpenAiLlm(LlmSettings(base_url=str(url)))
    await llm.check()
    await ask(llm)
    assert server.asked == ["/v1/models", "/v1/chat/completions"]
    await llm.close()
