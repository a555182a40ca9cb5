"""History: what was heard, bounded, in roles that every chat template takes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings import LlmSettings
from gateway.think.chat_wire import request_body
from gateway.think.history import INTERRUPTED_NOTE, History
from gateway.think.llm import Message, ToolOffer, ToolRequest


def test_a_conversation() -> None:
    history = History("Be brief.", 4)
    history.user(" Hello ")
    history.assistant("Hi.")
    history.user("Bye")
    assert history.messages() == [
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi."),
        Message("user", "Bye"),
    ]


def test_system_prompt_can_change_and_be_empty() -> None:
    history = History("a", 1)
    history.set_system("b")
    assert history.messages() == [Message("system", "b")]
    history.set_system("")
    assert history.messages() == []


def test_interrupted_reply_is_what_was_heard_and_marked() -> None:
    history = History("", 4)
    history.user("Tell me.")
    history.assistant("Once upon a", interrupted=True)
    history.user("Stop.")
    assert [(m.role, m.content) for m in history.messages()] == [
        ("user", "Tell me."),
        ("assistant", "Once upon a…"),
        ("user", f"{INTERRUPTED_NOTE}\nStop."),
    ]


@pytest.mark.parametrize("heard", ["Well…", "Well..."])
def test_an_ellipsis_is_not_doubled(heard: str) -> None:
    history = History("", 4)
    history.assistant(heard, interrupted=True)
    assert history.messages() == [Message("assistant", heard)]


def test_nothing_heard_adds_nothing_and_the_user_goes_on() -> None:
    history = History("", 4)
    history.user("I want to")
    history.assistant("  ", interrupted=True)
    history.user("go home")
    assert history.messages() == [Message("user", "I want to\ngo home")]


def test_pending_words_are_not_kept() -> None:
    history = History("", 4)
    history.user("Hello")
    history.assistant("Hi", interrupted=True)
    assert history.messages("And?")[-1] == Message("user", f"{INTERRUPTED_NOTE}\nAnd?")
    assert history.messages()[-1] == Message("assistant", "Hi…")


def test_a_greeting_comes_before_any_user() -> None:
    history = History("", 4)
    history.assistant("Welcome.")
    history.assistant("How can I help?")
    history.user("Hello")
    assert [(m.role, m.content) for m in history.messages()] == [
        ("assistant", "Welcome.\nHow can I help?"),
        ("user", "Hello"),
    ]


def test_oldest_turns_are_dropped() -> None:
    history = History("s", 2)
    for number in range(5):
        history.user(f"u{number}")
        history.assistant(f"a{number}")
    assert [m.content for m in history.messages()] == ["s", "u3", "a3", "u4", "a4"]


def test_tool_call_and_result() -> None:
    history = History("", 4)
    call = ToolRequest("c1", "clock", "{}")
    history.user("Time?")
    history.tool(call, "noon")
    history.assistant("It is noon.")
    assert history.messages() == [
        Message("user", "Time?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "noon", tool_call_id="c1"),
        Message("assistant", "It is noon."),
    ]


def test_no_turns_are_refused() -> None:
    with pytest.raises(ValueError, match="max_turns"):
        History("", 0)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("user"), st.text(max_size=4)),
        st.tuples(st.just("heard"), st.text(max_size=4)),
        st.tuples(st.just("cut"), st.text(max_size=4)),
        st.tuples(st.just("tool"), st.text(max_size=4)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(_STEPS, st.integers(1, 5))
def test_bounded_and_well_formed_whatever_happens(steps: list[tuple[str, str]], max_turns: int) -> None:
    history = History("s", max_turns)
    for number, (kind, text) in enumerate(steps):
        if kind == "user":
            history.user(text)
        elif kind == "tool":
            history.tool(ToolRequest(f"c{number}", "f", "{}"), text)
        else:
            history.assistant(text, interrupted=kind == "cut")
    system, *messages = history.messages()
    assert system.role == "system"
    assert sum(message.role == "user" for message in messages) <= max_turns
    for before, after in itertools.pairwise(messages):
        if before.tool_calls:
            assert after.tool_call_id == before.tool_calls[0].call_id
        elif before.role != "tool" and not after.tool_calls:
            assert before.role != after.role
    calls = {call.call_id for message in messages for call in message.tool_calls}
    assert calls == {message.tool_call_id for message in messages if message.role == "tool"}


@settings(max_examples=200, deadline=None)
@given(_STEPS)
def test_a_prompt_begins_with_the_one_before_it(steps: list[tuple[str, str]]) -> None:
    """Byte for byte, up to the end of what was said then: the server's prefix cache lives from it."""
    history = History("s", 100)
    before = ""
    for number, (kind, text) in enumerate(steps):
        if kind == "user":
            history.user(text)
            prompt = _prompt(history)
            assert prompt.startswith(before)
            before = prompt
        elif kind == "tool":
            history.tool(ToolRequest(f"c{number}", "f", "{}"), text)
        else:
            history.assistant(text, interrupted=kind == "cut")


def test_a_long_history_keeps_its_beginning_for_many_turns() -> None:
    history = History("s", 8)
    kept, before = 0, ""
    for number in range(100):
        history.user(f"u{number}")
        history.assistant(f"a{number}")
        prompt = _prompt(history)
        kept += prompt.startswith(before)
        before = prompt
    assert kept >= 50


def _prompt(history: History) -> str:
    """As it is sent, without what closes it."""
    body = request_body(LlmSettings(), history.messages(), [ToolOffer("clock", "", "")])
    return body.decode().removesuffix('"}]}')
