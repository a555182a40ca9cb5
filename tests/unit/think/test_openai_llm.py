"""The LLM client against a real HTTP server that fails in every way it can."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import pytest
from pydantic import SecretStr

from gateway.settings import LlmSettings
from gateway.telemetry.context import Passed, spot
from gateway.think.llm import LlmError, Message, ToolOffer, ToolRequest
from gateway.think.openai_llm import OpenAiLlm
from tests.support.faulty_llm import FaultyLlm

ASK = [Message("system", "Be brief."), Message("user", "Count.")]


def settings(url: str, **changes: object) -> LlmSettings:
    return LlmSettings.model_validate(
        {"base_url": url, "first_token_ms": 3_000, "token_ms": 3_000, "retries": 2} | changes
    )


async def collect(server: FaultyLlm, **changes: object) -> list[str | ToolRequest]:
    llm = OpenAiLlm(settings(server.base_url, **changes))
    try:
        return [part async for part in llm.stream(ASK)]
    finally:
        await llm.close()


async def failure(server: FaultyLlm, **changes: object) -> str:
    with pytest.raises(LlmError) as caught:
        await collect(server, **changes)
    return str(caught.value)


async def test_text_arrives_as_it_is_made() -> None:
    async with FaultyLlm("ok") as server:
        assert await collect(server, model="m", temperature=0.5, max_tokens=9) == ["One", " two", " three."]
        request = server.requests[0]
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Count."},
    ]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.5, 9)
    assert request["stream"] is True


async def test_api_key_is_really_sent_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-somebody-else")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-somebody-else")
    async with FaultyLlm("ok") as server:
        await collect(server, api_key=SecretStr("sk-mine"))
        await collect(server)
        with_key, without = server.headers
    assert with_key["authorization"] == "Bearer sk-mine"
    assert "authorization" not in without
    assert not any("somebody-else" in value for value in (with_key | without).values())


async def test_the_trace_context_goes_along_where_there_is_one() -> None:
    carrier = (("traceparent", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"), ("tracestate", "a=1"))

    async def traced() -> None:
        spot.set(Passed(carrier))
        await collect(server)

    async with FaultyLlm("ok") as server:
        await asyncio.create_task(traced())
        await collect(server)
        with_it, without = server.headers
    assert [with_it[key] for key, _ in carrier] == [value for _, value in carrier]
    assert "traceparent" not in without


async def test_tool_calls_are_assembled() -> None:
    async with FaultyLlm("tools") as server:
        assert await collect(server) == [
            ToolRequest("call_a", "weather", '{"city": "Oslo"}'),
            ToolRequest("call_b", "clock", "{}"),
        ]


async def test_offered_tools_are_on_the_wire_and_none_when_there_are_none() -> None:
    offer = ToolOffer("weather", "The weather in a city.", '{"type": "object", "properties": {"city": {}}}')
    async with FaultyLlm("tools") as server:
        llm = OpenAiLlm(settings(server.base_url))
        assert [part async for part in llm.stream(ASK, [offer, ToolOffer("now", "", "")])]
        assert [part async for part in llm.stream(ASK)]
        await llm.close()
        with_tools, without = server.requests
    assert [t["function"]["name"] for t in with_tools["tools"]] == ["weather", "now"]
    assert with_tools["tools"][0]["type"] == "function"
    assert with_tools["tools"][0]["function"]["parameters"]["properties"] == {"city": {}}
    assert with_tools["tools"][1]["function"]["parameters"]["type"] == "object"
    assert "tools" not in without


async def test_tool_messages_on_the_wire() -> None:
    call = ToolRequest("call_a", "weather", "{}")
    asked = [
        Message("user", "Rain?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "no", tool_call_id="call_a"),
    ]
    async with FaultyLlm("ok") as server:
        llm = OpenAiLlm(settings(server.base_url))
        assert [part async for part in llm.stream(asked)]
        await llm.close()
        _, made, result = server.requests[0]["messages"]
    assert made["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ]
    assert result == {"role": "tool", "content": "no", "tool_call_id": "call_a"}


# ---- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["500", "503", "429", "die_at_once", "empty", "finish_only", "garbage", "garbage_shape", "html"]
)
async def test_retry_before_the_first_token(fault: str) -> None:
    async with FaultyLlm(fault, "ok") as server:
        assert await collect(server) == ["One", " two", " three."]
        assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["400", "401", "404"])
async def test_no_retry_of_what_would_fail_again(fault: str) -> None:
    async with FaultyLlm(fault, "ok") as server:
        await failure(server)
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["die", "cut", "garbage_late", "error_event"])
async def test_no_retry_after_the_first_token(fault: str) -> None:
    async with FaultyLlm(fault, "ok") as server:
        llm = OpenAiLlm(settings(server.base_url))
        heard: list[str | ToolRequest] = []

        async def listen() -> None:
            async for part in llm.stream(ASK):
                heard.append(part)  # noqa: PERF401  (what came before the failure counts)

        with pytest.raises(LlmError, match="in the middle of a reply"):
            await listen()
        assert heard == ["One", " two"]
        assert len(server.requests) == 1
        await llm.close()


async def test_retries_are_as_many_as_set() -> None:
    async with FaultyLlm("500") as server:
        assert "failed by itself (500)" in await failure(server, retries=1)
        assert len(server.requests) == 2


async def test_total_budget_covers_all_tries() -> None:
    loop = asyncio.get_running_loop()
    async with FaultyLlm("500", "hang") as server:
        began = loop.time()
        text = await failure(server, first_token_ms=400, retries=5)
        took = loop.time() - began
        assert len(server.requests) == 2
        await asyncio.wait_for(server.hung_up.wait(), 2)
    assert 0.35 < took < 1.5
    assert "did not answer within 0.4 s" in text
    assert "(500)" in text


async def test_retry_after_beyond_the_budget_is_not_waited_for() -> None:
    loop = asyncio.get_running_loop()
    async with FaultyLlm("429", retry_after="60") as server:
        began = loop.time()
        assert "rate limit" in await failure(server)
        assert loop.time() - began < 1
        assert len(server.requests) == 1


async def test_cancel_aborts_backoff() -> None:
    async with FaultyLlm("429", retry_after="30") as server:
        llm = OpenAiLlm(settings(server.base_url, first_token_ms=60_000))

        async def run() -> None:
            async for _ in llm.stream(ASK):
                pass

        task = asyncio.create_task(run())
        await server.asked.wait()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2)
        assert done
        assert task.cancelled()
        assert len(server.requests) == 1
        await llm.close()


# ---- deadlines, closing -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["stall", "trickle"])
async def test_stalled_stream_has_a_deadline(fault: str) -> None:
    async with FaultyLlm(fault) as server:
        assert "stalled: no token for 0.2 s" in await failure(server, token_ms=200)
        await asyncio.wait_for(server.hung_up.wait(), 2)


async def test_a_slow_listener_is_no_stall() -> None:
    async with FaultyLlm("ok") as server:
        llm = OpenAiLlm(settings(server.base_url, token_ms=50))
        heard = []
        async for part in llm.stream(ASK):
            heard.append(part)
            await asyncio.sleep(0.08)
        assert heard == ["One", " two", " three."]
        await llm.close()


@pytest.mark.parametrize("fault", ["hang", "hang_after_headers"])
async def test_cancel_before_the_first_token_closes_the_request(fault: str) -> None:
    async with FaultyLlm(fault) as server:
        llm = OpenAiLlm(settings(server.base_url))

        async def run() -> None:
            async for _ in llm.stream(ASK):
                pass

        task = asyncio.create_task(run())
        await server.asked.wait()
        task.cancel()
        await asyncio.wait([task], timeout=2)
        await asyncio.wait_for(server.hung_up.wait(), 2)
        assert task.cancelled()
        await llm.close()


async def test_aclose_closes_the_http_stream_at_once() -> None:
    async with FaultyLlm("stall") as server:
        llm = OpenAiLlm(settings(server.base_url))
        async with aclosing(llm.stream(ASK)) as stream:
            assert await anext(stream) == "One"
        await asyncio.wait_for(server.hung_up.wait(), 2)
        await llm.close()


async def test_nothing_is_left_running() -> None:
    async with FaultyLlm("stall") as server:
        llm = OpenAiLlm(settings(server.base_url))
        before = asyncio.all_tasks()
        async with aclosing(llm.stream(ASK)) as stream:
            await anext(stream)
        await asyncio.wait_for(server.hung_up.wait(), 2)
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(0)
        left = {task for task in asyncio.all_tasks() - before if "_serve" not in repr(task)}
        assert not left
        await llm.close()


# ---- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("401", "refused the API key (401); set PARLEY_LLM__API_KEY."),
        ("404", "does not know the model 'big' or the path (404)"),
        ("429", "is over its rate limit or quota (429)"),
        ("500", "failed by itself (500)"),
        ("400", "refused the request (400)"),
        ("empty", "ended without a token."),
        ("finish_only", "ended without a token (finish reason: stop)."),
        ("cut", "broke off in the middle of a reply."),
        ("die", "broke off in the middle of a reply."),
        ("garbage", "sent something that is not the OpenAI chat API."),
        ("garbage_shape", "sent something that is not the OpenAI chat API."),
        ("garbage_bytes", "sent something that is not the OpenAI chat API."),
        (
            "garbage_late",
            "failed in the middle of a reply: it sent something that is not the OpenAI chat API.",
        ),
        ("error_event", "failed in the middle of a reply: out of memory."),
        ("html", "ended without a token."),
        ("die_at_once", "cannot be reached; check that it runs"),
    ],
)
async def test_every_failure_has_its_text(fault: str, text: str) -> None:
    async with FaultyLlm(fault) as server:
        shown = await failure(server, model="big", retries=0)
        assert shown.startswith(f"The LLM at {server.base_url} ")
        assert text in shown


async def test_unreachable_names_the_url_without_credentials() -> None:
    async with FaultyLlm("ok") as server:
        port = server.base_url.split(":")[-1].split("/")[0]
    server.base_url = f"http://anna:geheim@127.0.0.1:{port}/v1?token=geheim"
    text = await failure(server, retries=0, api_key=SecretStr("geheim"))
    assert text.startswith(f"The LLM at http://127.0.0.1:{port}/v1 cannot be reached")
    assert "geheim" not in text


async def test_no_secret_in_a_quoted_text() -> None:
    async with FaultyLlm("400") as server:
        text = await failure(server, api_key=SecretStr("mode 400"))
    assert "mode 400" not in text
    assert "refused the request (400)" in text


# ---- readiness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ok", "stall", "404"])
async def test_check_passes_where_the_endpoint_answers(mode: str) -> None:
    async with FaultyLlm(mode) as server:
        llm = OpenAiLlm(settings(server.base_url))
        await llm.check()
        await llm.close()


@pytest.mark.parametrize(("mode", "text"), [("401", "refused the API key"), ("500", "failed by itself"), ("die_at_once", "cannot be reached")])  # fmt: skip
async def test_check_says_what_is_wrong(mode: str, text: str) -> None:
    async with FaultyLlm(mode) as server:
        llm = OpenAiLlm(settings(server.base_url))
        with pytest.raises(LlmError, match=text):
            await llm.check()
        await llm.close()


async def test_check_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.think.openai_llm.CHECK_S", 0.1)
    async with FaultyLlm("hang") as server:
        llm = OpenAiLlm(settings(server.base_url))
        with pytest.raises(LlmError, match=r"did not answer within 0\.1 s"):
            await llm.check()
        await llm.close()
