"""Turns in traces: to the millisecond of virtual time, read by a real collector; and in logs, by their names."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.listen.asr import AsrError, Hypothesis
from gateway.session.events import (
    Configure,
    Hello,
    Outcome,
    ReplyDone,
    Say,
    TextIn,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.speak.tts import Chunk
from gateway.telemetry.context import call_context
from gateway.telemetry.exposition import page
from gateway.telemetry.logs import setup_logging
from gateway.telemetry.tracing import Tracing
from gateway.think.llm import LlmError, ToolRequest
from tests.support.collector import Collector, Got, collecting
from tests.support.fakes import FakeLlm, FakeRecognizer, FakeTts, silence, speech
from tests.unit.session.harness import say, virtual, world

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GONE = LlmError("the model is gone")
STAGES = [
    "end_of_turn",
    "final_transcript",
    "final_to_first_token",
    "first_token_to_first_sentence",
    "sentence_to_first_chunk",
    "first_chunk_to_first_audio",
]


def tracing_to(collector: Collector, **options: Any) -> Tracing:
    return Tracing(collector.url, service="parley-gateway", instance="i", version="1", **options)


def child(spans: list[Got], turn: Got, name: str) -> Got:
    (found,) = [span for span in spans if span.parent == turn.id and span.name == name]
    return found


def test_one_trace_a_turn_with_its_stages_end_to_end() -> None:
    with collecting() as collector:

        @virtual
        async def talk() -> None:
            tracing = tracing_to(collector)
            async with world(tracing=tracing) as w:
                w.asr.scripts = ["how are you today"]
                w.llm.replies = [["I am very well today, thank you. ", "And how have you been?"]]
                client = await w.connect(Hello(session_id="s1", trace=(("traceparent", CALLER),)))
                await say(client, 800)
                done = await client.until(ReplyDone)
                timings.update(done.timings)
                pieces.append(len(w.tts.sentences))
                text, kind = page(w.registry, "application/openmetrics-text; version=1.0.0,*/*;q=0.1")
                pages.append(text)
                assert kind.startswith("application/openmetrics-text")
            await tracing.close()

        timings: dict[str, float] = {}
        pages: list[bytes] = []
        pieces: list[int] = []
        talk()
        spans = collector.wait(lambda found: any(span.name == "session" for span in found))
    (turn,) = [span for span in spans if span.name == "turn"]
    (session,) = [span for span in spans if span.name == "session"]
    assert (session.trace, session.parent) == (CALLER[3:35], CALLER[36:52])
    assert turn.links == [session.id]
    assert turn.about["parley.outcome"] == "completed"
    assert turn.about["parley.session_id"] == "s1"
    assert turn.about["parley.voice_to_voice_ms"] == timings["voice_to_voice"]
    whole = 0.0
    at = child(spans, turn, "speech").wire.end_time_unix_nano
    for stage in STAGES:
        span = child(spans, turn, stage)
        assert span.wire.start_time_unix_nano == pytest.approx(at, abs=2_000)  # each where the last one ends
        at = span.wire.end_time_unix_nano
        whole += span.ms
        if stage in timings:
            assert span.ms == pytest.approx(timings[stage], abs=0.11)
    assert whole == pytest.approx(timings["voice_to_voice"], abs=0.2)
    assert child(spans, turn, "playout").wire.start_time_unix_nano == pytest.approx(at, abs=2_000)
    assert child(spans, turn, "asr").ms > 800
    assert child(spans, turn, "llm").ms >= 50
    spoken = [span for span in spans if span.name == "tts" and span.parent == turn.id]
    assert len(spoken) == pieces[0] > 1
    assert {span.trace for span in spans if span.name != "session"} == {turn.trace}
    told = {
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(pages[0].decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.name == "parley_voice_to_voice_seconds_bucket" and sample.exemplar
    }
    assert told == {turn.trace}


def test_barge_ins_true_and_false_tools_and_words_that_are_said() -> None:
    with collecting() as collector:

        @virtual
        async def talk() -> None:
            tracing = tracing_to(collector)
            async with world(tracing=tracing) as w:
                w.asr.scripts = ["tell me a story", "uh huh", "stop that please now"]
                story = ["Once upon a time there was a very long story that went on and on for ages."]
                w.llm.replies = [[ToolRequest("c1", "look", "{}")], story, ["Fine."]]
                client = await w.connect(Hello(configure=Configure(tools=(Tool("look", "x", "{}"),))))
                await say(client, 800)
                call = await client.until(ToolCall)
                await asyncio.sleep(0.25)
                took_ms.append((asyncio.get_running_loop().time() - client.at(call)) * 1000)
                client.put(ToolResult(call.call_id, "{}"))
                await asyncio.sleep(1.0)
                await client.play(speech(220), silence(1200))  # a backchannel
                await client.play(speech(1000), silence(900))  # an interruption
                await client.until(ReplyDone, count=2)
                client.put(Say("Goodbye then."))
                await client.until(ReplyDone, count=3)
            await tracing.close()

        took_ms: list[float] = []
        talk()
        spans = collector.wait(lambda found: any(span.name == "session" for span in found))
    turns = {span.about["parley.outcome"]: span for span in spans if span.name == "turn"}
    assert turns.keys() >= {"interrupted", "completed"}
    cut = turns["interrupted"]
    decided = [span for span in spans if span.name == "barge_in"]
    assert [span.about["parley.real"] for span in decided] == [False, True]
    assert {span.parent for span in decided} == {cut.id}
    assert child(spans, cut, "tool").ms == pytest.approx(took_ms[0], abs=1)
    assert child(spans, cut, "tool").about["parley.tool"] == "look"
    assert len([span for span in spans if span.name == "llm" and span.parent == cut.id]) == 2
    (said,) = [span for span in spans if span.name == "say"]
    assert child(spans, said, "playout").ms > 500
    assert all(span.wire.end_time_unix_nano for span in spans)


def test_what_fails_is_marked_and_what_comes_to_nothing_ends() -> None:
    with collecting() as collector:

        @virtual
        async def talk() -> None:
            tracing = tracing_to(collector)
            async with world(tracing=tracing) as w:
                w.asr.scripts = ["hello there", "", ""]
                w.llm.replies = [[GONE]]
                client = await w.connect()
                await say(client, 600)
                assert (await client.until(ReplyDone)).outcome is Outcome.FAILED
                await say(client, 600)  # nothing is recognised of it
                await asyncio.sleep(1)
                w.asr.fail = [AsrError("the recogniser is gone", retryable=False)]
                await say(client, 600)
                await asyncio.sleep(1)
            await tracing.close()

        talk()
        spans = collector.wait(lambda found: any(span.name == "session" for span in found))
    turns = [span for span in spans if span.name == "turn"]
    assert [span.about["parley.outcome"] for span in turns] == ["failed", "nothing_said", "nothing_said"]
    assert [span.failed for span in turns] == [True, False, False]
    assert child(spans, turns[0], "llm").failed
    assert child(spans, turns[0], "llm").wire.status.message == "the model is gone"
    failed = child(spans, turns[2], "asr")
    assert failed.failed
    assert "the recogniser is gone" in failed.wire.status.message


def test_what_is_asked_of_parts_carries_the_turn_and_its_own_place_in_the_trace() -> None:
    carried: dict[str, list[dict[str, str]]] = {"asr": [], "llm": [], "tts": []}

    class Asr(FakeRecognizer):
        async def recognize(self, *args: Any, **options: Any) -> AsyncIterator[Hypothesis]:
            carried["asr"].append(dict(call_context()))
            async for one in super().recognize(*args, **options):
                yield one

    class Llm(FakeLlm):
        async def stream(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
            carried["llm"].append(dict(call_context()))
            async for one in super().stream(*args, **options):
                yield one

    class Tts(FakeTts):
        async def synthesize(self, *args: Any, **options: Any) -> AsyncGenerator[Chunk, None]:
            carried["tts"].append(dict(call_context()))
            async for one in super().synthesize(*args, **options):
                yield one

    async def converse(tracing: Tracing | None, *, caller: str = "") -> None:
        async with world(tracing=tracing) as w:
            w.asr.__class__, w.llm.__class__, w.tts.__class__ = Asr, Llm, Tts
            w.asr.scripts = ["one two three", "four five six"]
            trace = (("traceparent", caller),) if caller else ()
            two = [await w.connect(Hello(session_id=name, trace=trace)) for name in ("s1", "s2")]
            await asyncio.gather(*(say(client, 700) for client in two))  # both at once, over the same parts
            await asyncio.gather(*(client.until(ReplyDone) for client in two))

    with collecting() as collector:

        @virtual
        async def traced() -> None:
            tracing = tracing_to(collector)
            await converse(tracing)
            await tracing.close()

        traced()
        spans = collector.wait(lambda found: sum(span.name == "session" for span in found) == 2)
    by_id = {span.id: span for span in spans}
    for part, sent in carried.items():
        assert {one["x-parley-session"] for one in sent} == {"s1", "s2"}
        for one in sent:
            span = by_id[one["traceparent"][36:52]]
            assert span.name == part
            turn = by_id[span.parent]
            assert turn.about["parley.turn_id"] == one["x-parley-turn"]
            assert turn.about["parley.session_id"] == one["x-parley-session"]
    for sent in carried.values():
        sent.clear()

    @virtual
    async def passed() -> None:
        await converse(None, caller=CALLER)

    passed()  # without a collector the client's own context goes on as it came
    assert {one["traceparent"] for sent in carried.values() for one in sent} == {CALLER}


@contextmanager
def json_log() -> Iterator[list[dict[str, Any]]]:
    stream, lines = io.StringIO(), list[dict[str, Any]]()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    setup_logging("info", form="json", stream=stream)
    try:
        yield lines
        lines += [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_log_lines_name_their_session_and_turn_and_slow_turns_their_timeline() -> None:
    @virtual
    async def talk() -> None:
        async with world(telemetry={"slow_turn_ms": 900}) as w:
            w.asr.scripts = ["one two three", "four five six", "seven eight nine", "what"]
            w.llm.replies = [["Fast."], [GONE], ["Slow."]]
            for name in ("quick", "broken", "slow"):
                client = await w.connect(Hello(session_id=name))
                w.llm.first_s = 1.5 if name == "slow" else 0.05
                await say(client, 700)
                await client.until(ReplyDone)
                await w.hang_up(client)
            w.llm.first_s = 5.0
            client = await w.connect(Hello(session_id="given-up"))
            client.put(TextIn("hello"))
            await asyncio.sleep(2.0)
            await w.hang_up(client)
            assert w.count("parley_slow_turns_total") == 2

    with json_log() as lines:
        talk()
    closed = [line["session"] for line in lines if " closed: " in line["message"]]
    assert closed == ["quick", "broken", "slow", "given-up"]
    (failed,) = [line for line in lines if line["message"] == "llm failed: the model is gone"]
    assert failed["session"] == "broken"
    assert len(failed["turn"]) == 32
    slow, given_up = [line for line in lines if line["message"].startswith("slow turn")]
    assert slow["session"] == "slow"
    assert slow["final_to_first_token_ms"] == pytest.approx(1500, abs=20)
    assert slow["voice_to_voice_ms"] > 1500
    assert slow["outcome"] == "audible"
    assert (given_up["session"], given_up["outcome"]) == ("given-up", "cancelled")
    assert all(len(line["turn"]) == 32 for line in (slow, given_up))


def test_when_all_turns_are_slow_one_line_a_second_is_written() -> None:
    @virtual
    async def talk() -> None:
        async with world(telemetry={"slow_turn_ms": 10}) as w:
            clients = [await w.connect() for _ in range(5)]
            for client in clients:
                client.put(TextIn("hello"))
            await asyncio.gather(*(client.until(ReplyDone) for client in clients))
            await asyncio.sleep(2)
            clients[0].put(TextIn("again"))
            await clients[0].until(ReplyDone, count=2)
            assert w.count("parley_slow_turns_total") == 6

    with json_log() as lines:
        talk()
    slow = [line for line in lines if line["message"].startswith("slow turn")]
    assert [line.get("unsaid") for line in slow] == [None, 4]
