"""When a client has nothing more to wait for, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.cli.client import Arrival, CallFailed
from gateway.cli.conversation import Conversation
from gateway.cli.player import Player
from gateway.session import events as ev
from tests.support.virtual_time import run_virtual

RATE = 24_000


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


def a_talk() -> Conversation:
    return Conversation(Player(RATE))


def happen(talk: Conversation, *events: ev.ServerEvent) -> None:
    now = asyncio.get_running_loop().time()
    for event in events:
        if isinstance(event, ev.ReplyAudio):
            talk.player.push(now, event)
        talk.on(Arrival(now, event))


def question(turn: str = "t1", text: str = "what time is it") -> list[ev.ServerEvent]:
    return [
        ev.SpeechStarted(turn, 0),
        ev.SpeechStopped(turn, 900),
        ev.Transcript(turn, text, True),
        ev.StateChanged(ev.State.WAITING_FOR_INPUT),
    ]


def begun(reply: str = "r1", turn: str = "t1", frames: int = 50) -> list[ev.ServerEvent]:
    return [
        ev.ReplyStarted(reply, turn, 1),
        ev.StateChanged(ev.State.SPEAKING),
        *[ev.ReplyAudio(reply, 1, n, n * 20, bytes(960)) for n in range(frames)],
    ]


def done(reply: str = "r1", outcome: ev.Outcome = ev.Outcome.COMPLETED) -> list[ev.ServerEvent]:
    return [
        ev.ReplyDone(reply, outcome, "It is noon."),
        ev.StateChanged(ev.State.WAITING_FOR_INPUT),
    ]


@virtual
async def test_it_waits_until_the_reply_was_heard() -> None:
    loop, talk = asyncio.get_running_loop(), a_talk()
    waiting = asyncio.create_task(talk.settled(quiet_s=1.0))
    await asyncio.sleep(0.5)
    happen(talk, *question())
    await asyncio.sleep(5.0)
    happen(talk, *begun())
    await asyncio.sleep(0.9)
    happen(talk, *done())
    assert await waiting
    assert loop.time() == pytest.approx(0.5 + 5.0 + 1.0 + 1.0, abs=0.11)
    assert talk.answered
    assert [t.text for t in talk.heard_user] == ["what time is it"]


@virtual
async def test_it_waits_at_least_so_long_for_something_to_begin() -> None:
    loop, talk = asyncio.get_running_loop(), a_talk()
    assert await talk.settled(quiet_s=0.5, at_least_s=3.0)
    assert loop.time() == pytest.approx(3.0)
    assert not talk.answered


@virtual
async def test_patience_ends_when_no_answer_comes() -> None:
    loop, talk = asyncio.get_running_loop(), a_talk()
    happen(talk, *question())
    assert not await talk.settled(patience_s=30.0)
    assert loop.time() == pytest.approx(30.0)


@virtual
async def test_an_interrupted_reply_leaves_its_question_open() -> None:
    talk = a_talk()
    happen(talk, *question(), *begun(), *question("t2"))
    happen(talk, ev.ReplyDone("r1", ev.Outcome.INTERRUPTED, "It"))
    assert talk.pending
    happen(talk, *begun("r2", "t2"), *done("r2"))
    assert not talk.pending
    assert await talk.settled()


@virtual
async def test_a_backchannel_over_a_reply_asks_for_none() -> None:
    talk = a_talk()
    happen(talk, *question(), *begun(), *question("t2", "uh huh"), *done())
    assert await talk.settled()


@virtual
async def test_words_that_were_not_recognised_ask_for_nothing() -> None:
    talk = a_talk()
    happen(talk, *question("t1", ""))
    assert await talk.settled()
    happen(
        talk, ev.SpeechStarted("t2", 0), ev.SpeechStopped("t2", 100), ev.Error("asr_failed", "say it again")
    )
    assert await talk.settled()
    assert [e.code for e in talk.errors] == ["asr_failed"]


@virtual
async def test_the_end_of_the_stream_ends_the_wait() -> None:
    talk = a_talk()
    talk.asked(0.0)
    waiting = asyncio.create_task(talk.settled())
    await asyncio.sleep(1.0)
    talk.over()
    assert not await waiting
    with pytest.raises(CallFailed):
        await talk.changed()
