"""What goes along with calls, and what is believed of what comes along with them."""

from __future__ import annotations

from contextvars import copy_context

import pytest

from gateway.telemetry.context import (
    Passed,
    call_context,
    context_of,
    read_ids,
    read_trace,
    session_id,
    spot,
    trace_id_of_now,
    turn_id,
)

PARENT = "00-" + "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331" + "-01"


def test_a_trace_context_is_read_from_headers_and_metadata_alike() -> None:
    assert read_trace([("traceparent", PARENT)]) == (("traceparent", PARENT),)
    both = [("Traceparent", PARENT), ("accept", "x"), ("TraceState", "a=1,b=2")]
    assert read_trace(both) == (("traceparent", PARENT), ("tracestate", "a=1,b=2"))
    assert read_trace([("tracestate", "a=1")]) == ()
    parts = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]
    assert read_trace(parts) == (("traceparent", PARENT), ("tracestate", "a=1,b=2"))
    assert read_trace([("traceparent", PARENT), ("traceparent", PARENT)]) == (), "whose is it?"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "\r\nx: y",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
    ],
)
def test_what_is_not_w3c_s_is_passed_over(bad: str) -> None:
    assert read_trace([("traceparent", bad)]) == ()


def test_a_bad_state_does_not_spoil_a_good_parent() -> None:
    for state in ("a=1\nb: c", "ä", "x" * 513):
        assert read_trace([("traceparent", PARENT), ("tracestate", state)]) == (("traceparent", PARENT),)


def test_names_that_are_none_go_into_no_log() -> None:
    assert read_ids([("x-parley-session", "s-1"), ("x-parley-turn", "t.2")]) == ("s-1", "t.2")
    assert read_ids([("x-parley-session", "a\nb"), ("x-parley-turn", "x" * 129)]) == ("", "")
    assert read_ids([("x-parley-session", b"raw")]) == ("", "")
    assert read_ids([("x-parley-turn", "t")]) == ("", "t")


def test_a_session_s_context_holds_nothing_of_who_made_it() -> None:
    copy_context().run(_made_inside_of_another)


def _made_inside_of_another() -> None:
    def look() -> tuple[str, str, tuple[tuple[str, str], ...]]:
        return session_id.get(), turn_id.get(), call_context()

    turn_id.set("another")
    spot.set(Passed((("traceparent", PARENT),)))
    context = context_of("mine")
    assert trace_id_of_now() == PARENT[3:35]
    assert context.run(look) == ("mine", "", (("x-parley-session", "mine"),))
    context.run(turn_id.set, "t1")
    context.run(spot.set, Passed((("traceparent", PARENT),)))
    assert context.run(call_context) == (
        ("x-parley-session", "mine"),
        ("x-parley-turn", "t1"),
        ("traceparent", PARENT),
    )
    assert (session_id.get(), turn_id.get()) == ("", "another")
