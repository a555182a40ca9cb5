"""Log lines: one per event, with session and turn, without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway.telemetry.logs import log_context, setup_logging

log = logging.getLogger("parley.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def setup(form: str, *secrets: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    setup_logging(level, form="json" if form == "json" else "text", secrets=secrets, stream=stream)
    return stream


def test_text() -> None:
    stream = setup("text")
    with log_context(session="s1", turn="t1"):
        log.info("reply %s", "ready", extra={"ms": 12})
    time, level, logger, rest = stream.getvalue().split(" ", 3)
    assert time.endswith("+00:00")
    assert (level, logger) == ("info", "parley.test")
    assert rest == "reply ready session=s1 turn=t1 ms=12\n"


def test_json() -> None:
    stream = setup("json")
    with log_context(session="s1"):
        log.warning("größe %d", 5, extra={"ms": 1.5, "ok": True, "what": object})
    fields = json.loads(stream.getvalue())
    assert fields.pop("time")
    assert fields == {
        "level": "warning",
        "logger": "parley.test",
        "message": "größe 5",
        "session": "s1",
        "ms": 1.5,
        "ok": True,
        "what": "<class 'object'>",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_one_line_per_event_whatever_it_holds(form: str) -> None:
    stream = setup(form)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("a\r\nb", extra={"field": "c\nd"})
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: two" in stream.getvalue()


def test_what_others_wrote_gives_a_terminal_no_orders() -> None:
    stream = setup("text")
    log.info("hung up: %s", "bye\x1b[2J\x9b31m\u2028\x00größe")
    line = stream.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert line.endswith("hung up: bye\\x1b[2J\\x9b31m\\u2028\\x00größe")


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_masked_everywhere(form: str) -> None:
    secret = 'sk-"quoted"\\very-secret'
    stream = setup(form, secret, "sk-", "", "ab")
    try:
        raise RuntimeError(f"key {secret} refused")
    except RuntimeError:
        with log_context(session=f"s-{secret}"):
            log.exception("sent %s", secret, extra={"header": f"Bearer {secret}", "labels": [secret]})
    assert "very-secret" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 4
    assert "Bearer ***" in stream.getvalue()


def test_too_short_secrets_do_not_garble_lines() -> None:
    stream = setup("text", "", "e")
    log.info("hello there")
    assert "hello there" in stream.getvalue()


async def test_tasks_inherit_the_context_and_do_not_share_it() -> None:
    stream = setup("json")

    async def turn(name: str) -> None:
        with log_context(turn=name):
            await asyncio.sleep(0)
            log.info("x")

    with log_context(session="s"):
        await asyncio.gather(turn("a"), turn("b"))
    log.info("y")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line.get("session"), line.get("turn")) for line in lines] == [
        ("s", "a"),
        ("s", "b"),
        (None, None),
    ]


def test_level_and_setting_up_twice() -> None:
    setup("text", level="debug")
    stream = setup("text", level="warning")
    log.info("quiet")
    log.error("loud")
    logging.getLogger("httpx").info("noise")
    assert stream.getvalue().count("\n") == 1
    assert "loud" in stream.getvalue()
