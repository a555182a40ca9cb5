"""Server-sent events as servers really write them, cut anywhere on the way."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings import LlmSettings
from gateway.think.chat_wire import EventReader, StreamedReply, error_message, request_body
from gateway.think.llm import Message, ToolOffer
from gateway.think.llm_errors import FailedInStream

_STREAM = (
    b": OPENROUTER PROCESSING\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\r\n\r\n'
    b'event: message\nid: 7\ndata: {"choices":[{"delta":{"content":"Gr\xc3\xbc\xc3\x9fe"}}]}\n\n'
    b'data:{"choices":[{"delta":\ndata: {"content":" \xf0\x9f\x91\x8b"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    b"data: [DONE]"
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(_STREAM))))
def test_how_a_stream_was_cut_changes_nothing(cuts: list[int]) -> None:
    reader, reply, text = EventReader(), StreamedReply(), ""
    events: list[str] = []
    for begin, end in pairwise([0, *sorted(cuts), len(_STREAM)]):
        events += reader.feed(_STREAM[begin:end])
    events += reader.flush()
    assert events[-1] == "[DONE]"
    for event in events:
        text += reply.take(event)
    assert text == "Grüße 👋"
    assert (reply.finish, reply.over, len(events)) == ("stop", True, 6)


def test_an_event_without_an_end_is_refused() -> None:
    reader = EventReader()
    for _ in range(8):
        reader.feed(b"x" * 32_768)
    with pytest.raises(ValueError, match="without an end"):
        reader.feed(b"x")


@pytest.mark.parametrize("error", ['{"message": "out of memory"}', '"out of memory"'])
def test_an_error_in_the_stream_is_told(error: str) -> None:
    with pytest.raises(FailedInStream, match="out of memory"):
        StreamedReply().take(f'{{"error": {error}}}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"object": "error", "message": "no such model"}', "no such model"),
        (b"<html>Bad gateway</html>", "<html>Bad gateway</html>"),
        (b"", ""),
    ],
)
def test_what_servers_say_when_they_refuse(body: bytes, message: str) -> None:
    assert error_message(body) == message


def test_a_request_changes_at_its_end_alone() -> None:
    tools = [ToolOffer("clock", "", "")]
    first = request_body(LlmSettings(), [Message("system", "Be brief."), Message("user", "Grüße")], tools)
    assert json.loads(first)["messages"][1]["content"] == "Grüße"
    assert first.endswith('"content":"Grüße"}]}'.encode())
    more = [Message("system", "Be brief."), Message("user", "Grüße"), Message("assistant", "Hi.")]
    assert request_body(LlmSettings(), more, tools).startswith(first.removesuffix(b"]}"))
