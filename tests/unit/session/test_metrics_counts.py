"""Metrics: everything that happens is counted, once, also what failed or was cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Set

import pytest
from prometheus_client import CollectorRegistry

from gateway.listen.asr import AsrError
from gateway.session.events import (
    Cancel,
    Close,
    Configure,
    Error,
    Hello,
    ReplyAudio,
    ReplyDone,
    Say,
    TextIn,
    ToolCall,
    ToolResult,
)
from gateway.session.manager import Refused
from gateway.telemetry.metrics import OF_SYNTHESIS, STAGES
from gateway.think.llm import LlmError, ToolRequest
from tests.support.fakes import FakeConnection, silence, speech
from tests.support.virtual_time import settle
from tests.unit.session.harness import World, say, virtual, world

OF_SPEECH = {"end_of_turn", "speech_end_to_final", "voice_to_voice"}
OF_ANSWERS = {
    "final_to_first_token",
    "first_token_to_first_sentence",
    "sentence_to_first_chunk",
    "first_chunk_to_first_audio",
    "final_to_first_audio",
}


def counts(registry: CollectorRegistry) -> Counter[str]:
    """Every counter and every histogram's count, by name and labels without `parley_`."""
    found: Counter[str] = Counter()
    for family in registry.collect():
        for sample in family.samples:
            if sample.name.endswith(("_total", "_count")):
                labels = ",".join(sample.labels.values())
                name = sample.name.removeprefix("parley_").removesuffix("_total").removesuffix("_count")
                found[f"{name}{{{labels}}}" if labels else name] = int(sample.value)
    return found


class Watched:
    """What moved since the last time it was asked, besides the event loop's lag, which is read all the time."""

    def __init__(self, w: World) -> None:
        self._registry = w.registry
        self._before = counts(w.registry)

    def moved(self) -> dict[str, int]:
        now = counts(self._registry)
        change = {name: now[name] - self._before[name] for name in now if now[name] != self._before[name]}
        self._before = now
        change.pop("loop_lag_seconds", None)
        return change


def stages(*names: Set[str]) -> dict[str, int]:
    return {f"{name}_seconds": 1 for name in set[str]().union(*names)}


@virtual
async def test_an_answered_turn_moves_each_of_its_metrics_once() -> None:
    async with world() as w:
        client = await w.connect()
        watch = Watched(w)
        w.asr.scripts = ["hello there"]
        w.llm.replies = [["One ", "two ", "three. ", "And four."]]
        await say(client)
        done = await client.until(ReplyDone)
        assert watch.moved() == {"turns{completed}": 1, "llm_chunks": 4} | stages(OF_SPEECH, OF_ANSWERS)
        assert set(done.timings) == OF_SPEECH | OF_ANSWERS
        await client.play(silence(3_000))
        assert watch.moved() == {}
        assert set(STAGES) == OF_SPEECH | OF_ANSWERS | {"barge_in_detect_to_flush"}


@virtual
async def test_typed_words_and_words_to_say_are_no_speech_and_the_latter_no_answer() -> None:
    async with world() as w:
        client = await w.connect()
        watch = Watched(w)
        client.put(TextIn("hello"))
        await client.until(ReplyDone)
        assert watch.moved() == {"turns{completed}": 1, "llm_chunks": 1} | stages(OF_ANSWERS)
        client.put(Say("Good morning."))
        await client.until(ReplyDone, count=2)
        assert watch.moved() == {"turns{completed}": 1} | stages(OF_SYNTHESIS)


@virtual
async def test_an_interruption_counts_the_reply_it_cut_and_the_one_it_got() -> None:
    async with world() as w:
        client = await w.connect()
        w.llm.replies = [["A long story without an end. " * 5], ["Stopped."]]
        w.asr.scripts = ["stop talking now please"]
        client.put(TextIn("tell me a story"))
        await client.until(ReplyAudio, count=20)
        watch = Watched(w)
        await say(client, 900)
        await client.until(ReplyDone, count=2)
        moved = watch.moved()
        moved.pop("holds{confirmed}", None)  # the fast ear's share: tests of its own
        assert moved == {
            "turns{interrupted}": 1,
            "turns{completed}": 1,
            "barge_ins{true}": 1,
            "barge_in_detect_to_flush_seconds": 1,
            "llm_chunks": 1,
        } | stages(OF_SPEECH, OF_ANSWERS)


@virtual
async def test_a_false_alarm_is_no_turn() -> None:
    async with world() as w:
        client = await w.connect()
        w.llm.replies = [["A long story without an end. " * 3]]
        client.put(TextIn("tell me a story"))
        await client.until(ReplyAudio, count=20)
        watch = Watched(w)
        await client.play(speech(100), silence(400))
        await client.until(ReplyDone)
        moved = watch.moved()
        moved.pop("holds{confirmed}", None)
        assert moved == {
            "barge_ins{false}": 1,
            "barge_in_detect_to_flush_seconds": 1,
            "turns{completed}": 1,
        }


@virtual
async def test_cancelled_replies_are_counted_once_whether_heard_or_not() -> None:
    async with world() as w:
        client = await w.connect()
        w.llm.replies = [["A long story without an end. " * 5]] * 2
        client.put(TextIn("tell me a story"))
        await client.until(ReplyAudio)
        watch = Watched(w)
        client.put(Cancel())
        client.put(Cancel())  # there is nothing any more to cancel
        await client.until(ReplyDone)
        assert watch.moved() == {"turns{cancelled}": 1}
        w.llm.first_s = 5.0
        client.put(TextIn("tell me a story"))
        await asyncio.sleep(1.0)
        client.put(Cancel())
        await settle()
        assert watch.moved() == {"turns{cancelled}": 1}


@virtual
async def test_a_hang_up_over_a_reply_counts_it_and_the_session() -> None:
    async with world() as w:
        client = await w.connect()
        client.put(TextIn("hello"))
        await client.until(ReplyAudio)
        watch = Watched(w)
        client.put(Close("bye"))
        await client.closed()
        await settle()
        assert watch.moved() == {"turns{cancelled}": 1, "sessions{client}": 1}


@virtual
async def test_failed_parts_and_turns_are_counted_once() -> None:
    async with world(asr={"retry_budget_ms": 500}, llm={"apology": "Sorry."}) as w:
        client = await w.connect()
        watch = Watched(w)
        w.llm.replies = [[LlmError("down")]]
        client.put(TextIn("hello"))
        await client.until(ReplyDone, count=2)  # the failed one, and the apology
        assert watch.moved() == {
            "turns{failed}": 1,
            "part_errors{llm,llm_failed}": 1,
            "turns{completed}": 1,
        } | stages(OF_SYNTHESIS)
        w.llm.replies = [["This much was said. ", LlmError("broke off")]]
        client.put(TextIn("hello"))
        await client.until(ReplyDone, count=3)
        assert watch.moved() == {
            "turns{failed}": 1,
            "part_errors{llm,llm_failed}": 1,
            "llm_chunks": 1,
        } | stages(OF_ANSWERS)
        w.llm.replies = [["One sentence. Another sentence. A third sentence."]]
        w.tts.fail = {"Another sentence.": 1}
        client.put(TextIn("hello"))
        await client.until(ReplyDone, count=4)
        assert watch.moved() == {
            "turns{failed}": 1,
            "part_errors{tts,tts_failed}": 1,
            "llm_chunks": 1,
        } | stages(OF_ANSWERS)
        w.asr.fail = [AsrError("down")] * 20
        await say(client, 400)
        await client.until(Error, count=4)
        # What was never recognised is a failure of the recogniser; there is no reply to count.
        assert watch.moved() == {"part_errors{asr,asr_failed}": 1}


@virtual
async def test_tokens_are_the_pieces_that_came_also_of_replies_nobody_heard() -> None:
    async with world(turn={"eager": True}) as w:
        client = await w.connect()
        watch = Watched(w)
        call = ToolRequest("c1", "weather", "{}")
        w.llm.replies = [["Let me see. ", call], ["It ", "rains."]]
        client.put(Configure())
        client.put(TextIn("what is the weather"))
        await client.until(ToolCall)
        client.put(ToolResult("c1", "rain"))
        await client.until(ReplyDone)
        moved = watch.moved()
        assert moved["llm_chunks"] == w.llm.tokens - 1 == 3  # a tool call is no text
        assert moved["turns{completed}"] == 1


@virtual
async def test_sessions_are_counted_when_they_end_and_refusals_are_none() -> None:
    async with world(session={"max_sessions": 2, "idle_s": 30.0}) as w:
        watch = Watched(w)
        first = await w.connect(Hello(session_id="a"))
        again = await w.connect(Hello(session_id="a"))
        await w.connect(Hello(session_id="b"))
        await settle()
        assert w.count("parley_sessions_active") == 2
        assert watch.moved() == {"sessions{replaced}": 1}
        assert first.of(Error) == []
        with pytest.raises(Refused):
            await w.sessions.serve(FakeConnection(Hello(session_id="c")))
        assert watch.moved() == {"refused{full}": 1}
        again.put(ConnectionError("the client cancelled the stream"))  # type: ignore[arg-type]
        await again.closed()
        await settle()
        assert watch.moved() == {"sessions{client}": 1}
        await asyncio.sleep(31)
        assert watch.moved() == {"sessions{idle}": 1}
        assert w.count("parley_sessions_active") == 0
        await w.sessions.drain(0)
        with pytest.raises(Refused):
            await w.sessions.serve(FakeConnection())
        assert watch.moved() == {"refused{shutting_down}": 1}
