"""Callers against a real gateway over real gRPC: what they measure, and what they call a failure."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.session import events as ev
from gateway.think.llm import LlmError
from tests.load.callers import Callers, callers
from tests.load.gateway import make_clips, scripted, talking

IN_A_TURN = (
    "speech_end_to_stopped", "speech_end_to_final", "final_to_first_token", "first_token_to_first_sentence",
    "sentence_to_first_chunk", "final_to_first_audio", "stop_to_first_audio", "voice_to_voice", "frames",
    "frames_late", "frame_jitter", "early_end", "turn",
)  # fmt: skip


@pytest_asyncio.fixture
async def them(tmp_path: Path) -> AsyncIterator[Callers]:
    async with callers(make_clips(tmp_path)) as them:
        yield them


async def test_a_call_of_two_turns(them: Callers, tmp_path: Path) -> None:
    async with talking() as (host, world):
        me = await them.call(host, turns=2, frames_csv=str(tmp_path / "frames.csv"))
        assert (await them.ended(me))["ok"]
    await them.quit()
    connect, session = them.sample(me, "connect"), them.sample(me, "session")
    assert connect["ok"]
    assert session["ok"]
    assert session["ms"] > 4000
    for name in IN_A_TURN:
        assert [s["turn"] for s in them.samples(me, name)] == [1, 2], name
        assert all(s["ok"] for s in them.samples(me, name)), name
    for turn in (0, 1):
        ms = {name: them.samples(me, name)[turn]["ms"] for name in IN_A_TURN}
        assert 200 < ms["speech_end_to_stopped"] < ms["speech_end_to_final"] < ms["voice_to_voice"]
        assert ms["voice_to_voice"] == pytest.approx(
            ms["speech_end_to_stopped"] + ms["stop_to_first_audio"], abs=0.01
        )
        assert ms["final_to_first_token"] == pytest.approx(world.llm.first_s * 1000, abs=60)
        assert ms["frames"] > 80
        assert ms["early_end"] == 0
    with (tmp_path / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    frames = sum(s["ms"] for s in them.samples(me, "frames"))
    assert len(rows) == frames
    assert {row["caller"] for row in rows} == {str(me)}
    assert {row["reply"] for row in rows} == {"1", "2"}


async def test_turns_that_fail_say_why(them: Callers) -> None:
    async with talking() as (host, world):
        world.asr.deaf = True
        deaf = await them.call(host, reply_timeout_ms=700)
        assert (await them.ended(deaf))["ok"], "the call itself went well"
        world.asr.deaf = False
        world.llm.replies.append([LlmError("the model is out")])
        out = await them.call(host)
        await them.ended(out)
    assert them.sample(deaf, "turn")["why"] == "no_final"
    assert them.sample(deaf, "voice_to_voice")["ok"] is False
    assert them.sample(out, "turn")["why"] == "error:llm_failed"


async def test_a_gateway_that_is_gone(them: Callers) -> None:
    async with talking() as (host, world):
        me = await them.call(host)
        await them.event(id=me, name="connect")
        await asyncio.sleep(0.5)  # amid the words
        await world.sessions.drain(0.0)
        ended = await them.ended(me)
    assert ended["why"] == "closed:shutdown"
    assert them.sample(me, "turn")["why"] == "disconnected"
    assert them.sample(me, "session")["why"] == "closed:shutdown"
    nobody = await them.call(host)
    assert (await them.ended(nobody))["why"] == "refused:UNAVAILABLE"
    assert them.sample(nobody, "connect")["why"] == "refused:UNAVAILABLE"


async def test_calls_that_are_refused_or_never_greeted(them: Callers) -> None:
    async with talking(session={"max_sessions": 1}) as (host, _):
        first = await them.call(host)
        await them.event(id=first, name="connect")
        second = await them.call(host)
        assert (await them.ended(second))["why"] == "refused:RESOURCE_EXHAUSTED"
        await them.stop(first)
        assert (await them.ended(first))["ok"]
        assert not them.samples(first, "turn"), "a turn that its own caller cut is none"

    async def silent(connection: ev.Connection) -> None:
        await asyncio.sleep(3600)

    async with scripted(silent) as host:
        me = await them.call(host, connect_timeout_ms=200)
        assert (await them.ended(me))["why"] == "refused:DEADLINE_EXCEEDED"


async def test_how_calls_end_at_the_server(them: Callers) -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def listening(connection: ev.Connection) -> None:
        connection.send(ev.Ready("s1", 16_000, 48_000, "en-US", ""))
        try:
            async for event in connection.events():
                if isinstance(event, ev.Close):
                    ends.put_nowait(event.reason)
                    connection.send(ev.Closed("client"))
        except (ConnectionError, asyncio.CancelledError):
            ends.put_nowait("cut")
            raise

    async with scripted(listening) as host:
        for hang_up, seen in (("clean", "the caller is done"), ("rude", "cut")):
            me = await them.call(host, hang_up=hang_up)
            await them.event(id=me, name="connect")
            await them.stop(me)
            assert (await them.ended(me))["ok"]
            assert them.sample(me, "session")["ok"]
            async with asyncio.timeout(5):
                assert await ends.get() == seen


async def test_an_interruption(them: Callers) -> None:
    async with talking() as (host, _):
        me = await them.call(host, turns=3, interrupt=1.0, interrupt_ms=[300, 500])
        await them.ended(me)
    silences = them.samples(me, "barge_in")
    assert [s["turn"] for s in silences] == [2, 3]
    assert all(s["ok"] and 10 < s["ms"] < 500 for s in silences), silences
    assert [s["ms"] for s in them.samples(me, "stale_frames")] == [0, 0]
    assert all(s["ok"] for s in them.samples(me, "turn"))


async def test_a_server_that_sends_stale_frames_is_caught(them: Callers) -> None:
    async def careless(connection: ev.Connection) -> None:
        connection.send(ev.Ready("s1", 16_000, 48_000, "en-US", ""))
        heard = 0
        async for event in connection.events():
            if isinstance(event, ev.Close):
                connection.send(ev.Closed("client"))
                return
            heard += 1
            if heard == 25:
                connection.send(ev.SpeechStarted("t1", 300))
            if heard == 60:
                connection.send(ev.SpeechStopped("t1", 900))
                connection.send(ev.Transcript("t1", "well", final=True))
                connection.send(ev.ReplyStarted("r1", "t1", 1))
                for sequence in range(5):
                    connection.send(ev.ReplyAudio("r1", 1, sequence, sequence * 20, bytes(1920)))
                await connection.drained()
                connection.send(ev.Flushed(1, "r1"))
                await connection.drained()
                for sequence in range(5, 8):
                    connection.send(ev.ReplyAudio("r1", 1, sequence, sequence * 20, bytes(1920)))
                connection.send(ev.ReplyDone("r1", ev.Outcome.COMPLETED, "well"))

    async with scripted(careless) as host:
        me = await them.call(host)
        await them.ended(me)
    stale = them.sample(me, "stale_frames")
    assert (stale["ms"], stale["ok"], stale["why"]) == (3, False, "stale_frames")


async def test_slow_readers_are_felt_and_measured_apart(them: Callers) -> None:
    async def flooding(connection: ev.Connection) -> None:
        connection.send(ev.Ready("s1", 16_000, 48_000, "en-US", ""))
        for sequence in range(3000):  # a minute of audio
            connection.send(ev.ReplyAudio("r1", 1, sequence, sequence * 20, bytes(1920)))
        async for _ in connection.events():
            pass

    async with scripted(flooding, slow_client_s=0.5, outbox_ms=60_000) as host:
        stalled = await them.call(host, read="stall", stall_ms=1500)
        ended = await them.ended(stalled)
        assert ended == {"e": "ended", "id": stalled, "ok": True, "why": "slow_client"}
    assert {e["name"] for e in them.events if e.get("id") == stalled and e["e"] == "sample"} <= {
        "connect", "session", "slow_turn", "send_late",
    }  # fmt: skip
    async with talking() as (host, world):
        world.llm.replies = [["All right."], ["All right."]]
        slow, fast = await them.call(host, read="slow"), await them.call(host)
        await them.ended(slow)
        await them.ended(fast)
    assert them.sample(slow, "slow_turn")["ok"]
    assert them.sample(slow, "slow_turn")["ms"] > them.sample(fast, "turn")["ms"] + 200


async def test_the_program_says_how_it_is_doing(them: Callers) -> None:
    async with talking() as (host, _):
        numbers = [await them.call(host, turns=0) for _ in range(5)]
        first = await them.event(e="self", callers=5)
        await asyncio.sleep(1.1)
        last = next(e for e in reversed(them.events) if e["e"] == "self")
    assert last["cpu_s"] > first["cpu_s"] > 0
    assert 150 <= last["frames_sent"] <= 350
    assert last["send_late_p99_ms"] > 0
    assert (last["held_back"], last["events_dropped"]) == (0, 0)
    assert not [number for number in numbers if them.samples(number, "session")]


async def test_orders_that_cannot_be_obeyed(them: Callers) -> None:
    await them.order({"cmd": "start", "id": 9, "plan": {"host": "nowhere", "clips": "none"}})
    assert "host:port" in (await them.ended(9))["why"]
    missing = await them.call("127.0.0.1:1", clips="none.json")
    assert "no_clips" in (await them.ended(missing))["why"]
