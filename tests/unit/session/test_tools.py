"""Tools: the model asks, the client answers, the model goes on."""

from __future__ import annotations

import asyncio

from gateway.session.events import (
    Configure,
    Error,
    Hello,
    Outcome,
    ReplyDone,
    TextIn,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.think.llm import ToolRequest
from tests.unit.session.harness import virtual, world

_WEATHER = Tool("weather", "The weather in a city.", '{"type": "object"}')
_ASK = [ToolRequest("call_1", "weather", '{"city": "York"}')]


@virtual
async def test_a_tool_call_is_put_to_the_client_and_its_result_to_the_model() -> None:
    async with world() as w:
        w.llm.replies = [_ASK, ["It rains in York."]]
        client = await w.connect(Hello(configure=Configure(tools=(_WEATHER,))))
        client.put(TextIn("how is the weather in york"))
        call = await client.until(ToolCall)
        assert (call.name, call.arguments) == ("weather", '{"city": "York"}')
        client.put(ToolResult(call.call_id, '{"rain": true}'))
        done = await client.until(ReplyDone)
        assert done.text == "It rains in York."
        assert w.llm.tools == [["weather"], ["weather"]]
        asked, answered = w.llm.prompts[1][-2:]
        assert asked.tool_calls[0].call_id == answered.tool_call_id == "call_1"
        assert answered.content == '{"rain": true}'


@virtual
async def test_a_result_nobody_waits_for_is_refused_and_one_that_never_comes_fails_the_reply() -> None:
    async with world() as w:
        w.llm.replies = [_ASK]
        client = await w.connect(Hello(configure=Configure(tools=(_WEATHER,))))
        client.put(ToolResult("call_9", "x"))
        client.put(TextIn("how is the weather"))
        await client.until(ToolCall)
        await asyncio.sleep(31)
        assert client.of(ReplyDone)[0].outcome is Outcome.FAILED
        assert [e.code for e in client.of(Error)] == ["bad_request", "llm_failed"]
