"""The plain course of a session."""

from __future__ import annotations

import asyncio

from gateway.session.events import (
    AudioIn,
    Cancel,
    Close,
    Closed,
    Commit,
    Configure,
    Hello,
    Outcome,
    ReplyAudio,
    ReplyDone,
    ReplyStarted,
    ReplyText,
    Say,
    SpeechStarted,
    SpeechStopped,
    State,
    TextIn,
    Transcript,
    Warning,
)
from tests.support.fakes import silence, speech
from tests.unit.session.harness import say, virtual, world


@virtual
async def test_a_spoken_turn_is_answered() -> None:
    async with world() as w:
        w.asr.scripts = ["what time is it"]
        w.llm.replies = [["It is ", "ten ", "o'clock. ", "Anything ", "else?"]]
        client = await w.connect()
        await client.play(silence(500))
        await say(client, 1000)
        done = await client.until(ReplyDone)

        finals = [t for t in client.of(Transcript) if t.final]
        assert [t.text for t in finals] == ["what time is it"]
        assert any(not t.final for t in client.of(Transcript))
        assert done.outcome is Outcome.COMPLETED
        assert done.text == "It is ten o'clock. Anything else?"
        assert done.unheard == ""
        assert "".join(t.text for t in client.of(ReplyText)) == "It is ten o'clock. Anything else?"
        assert client.states == [
            State.LISTENING,
            State.WAITING_FOR_INPUT,
            State.SPEAKING,
            State.WAITING_FOR_INPUT,
        ]
        started, stopped = client.of(SpeechStarted)[0], client.of(SpeechStopped)[0]
        assert abs(started.at_ms - 500) <= 32
        assert abs(stopped.at_ms - 1500) <= 32
        assert w.llm.prompts[0][-1].content == "what time is it"
        await w.hang_up(client)


@virtual
async def test_history_reaches_the_next_prompt() -> None:
    async with world() as w:
        w.asr.scripts = ["my name is ann", "what is my name"]
        w.llm.replies = [["Hello Ann."], ["Ann."]]
        client = await w.connect(Hello(configure=Configure(instructions="Be brief.")))
        await say(client)
        await client.until(ReplyDone)
        await say(client)
        await client.until(ReplyDone, count=2)
        assert [(m.role, m.content) for m in w.llm.prompts[1]] == [
            ("system", "Be brief."),
            ("user", "my name is ann"),
            ("assistant", "Hello Ann."),
            ("user", "what is my name"),
        ]


@virtual
async def test_timings_say_where_the_time_went() -> None:
    async with world() as w:
        w.asr.scripts = ["hello there"]
        client = await w.connect()
        await say(client)
        done = await client.until(ReplyDone)
        t = done.timings
        assert 200 <= t["end_of_turn"] <= 270
        assert 19 <= t["speech_end_to_final"] - t["end_of_turn"] <= 25
        assert 45 <= t["final_to_first_token"] <= 60
        assert abs(t["voice_to_voice"] - t["speech_end_to_final"] - t["final_to_first_audio"]) < 0.5
        assert w.count("parley_voice_to_voice_seconds_count") == 1


@virtual
async def test_frames_are_20_ms_at_the_clients_rate_and_paced_with_a_60_ms_lead() -> None:
    async with world() as w:
        w.asr.scripts = ["hello there"]
        w.llm.replies = [["This is a sentence of some length for you."]]
        client = await w.connect(Hello(output_rate=48_000))
        await say(client)
        await client.until(ReplyDone)
        frames = [s for s in client.sent if isinstance(s.event, ReplyAudio)]
        assert {len(s.event.pcm) for s in frames if isinstance(s.event, ReplyAudio)} == {1920}
        start = frames[0].at
        for n, s in enumerate(frames):
            assert isinstance(s.event, ReplyAudio)
            assert s.event.sequence == n
            assert s.event.offset_ms == n * 20
            assert s.at - start >= n * 0.020 - 0.060 - 1e-6, f"frame {n} left more than the lead early"
            assert s.at - start <= n * 0.020 + 0.021, f"frame {n} was late"


@virtual
async def test_typed_text_is_answered_and_interrupts() -> None:
    async with world() as w:
        w.llm.replies = [["A long answer that goes on and on and on for quite a while."], ["Short."]]
        client = await w.connect()
        client.put(TextIn("tell me"))
        await client.until(ReplyAudio, count=20)
        client.put(TextIn("stop, something else"))
        first = await client.until(ReplyDone)
        assert first.outcome is Outcome.INTERRUPTED
        second = await client.until(ReplyDone, count=2)
        assert second.outcome is Outcome.COMPLETED
        assert not client.stale()
        assert "…" in w.llm.prompts[1][-2].content
        assert w.llm.prompts[1][-1].content.endswith("stop, something else")


@virtual
async def test_say_speaks_word_for_word_without_the_llm() -> None:
    async with world() as w:
        client = await w.connect()
        client.put(Say("Welcome to the line."))
        client.put(Say("One moment."))
        await client.until(ReplyDone, count=2)
        assert [d.text for d in client.of(ReplyDone)] == ["Welcome to the line.", "One moment."]
        assert w.llm.streams == 0
        assert client.states[:2] == [State.LISTENING, State.SPEAKING]


@virtual
async def test_commit_ends_the_turn_at_once_and_manual_turns_wait_for_it() -> None:
    async with world() as w:
        w.asr.scripts = ["one two three"]
        client = await w.connect(Hello(configure=Configure(automatic_turns=False)))
        client.put(Commit())
        await client.play(silence(100))
        assert [x.code for x in client.of(Warning)] == ["nothing_to_commit"]
        await client.play(speech(700), silence(3000))
        assert not client.of(SpeechStopped)
        client.put(Commit())
        await client.until(ReplyDone)
        assert len(client.of(SpeechStopped)) == 1


@virtual
async def test_configure_changes_what_comes_next() -> None:
    async with world() as w:
        w.asr.scripts = ["hallo"]
        client = await w.connect()
        client.put(Configure(language="de-DE", instructions="Sprich Deutsch."))
        await say(client)
        await client.until(ReplyDone)
        assert w.asr.languages == ["de-DE"]
        assert w.llm.prompts[0][0].content == "Sprich Deutsch."


@virtual
async def test_idle_timeout_closes_but_not_while_a_reply_is_prepared() -> None:
    async with world(session={"idle_s": 5.0}) as w:
        w.llm.first_s = 7.0
        w.llm.replies = [["Done."]]
        client = await w.connect()
        client.put(TextIn("think hard"))
        await asyncio.sleep(9)
        assert client.of(ReplyStarted)
        assert not client.of(Closed)
        await asyncio.sleep(7)
        assert client.of(Closed)[0].reason == "idle"
        assert client.states[-1] is State.TERMINATED


@virtual
async def test_five_minutes_is_the_default_idle_timeout() -> None:
    async with world() as w:
        client = await w.connect()
        await asyncio.sleep(299)
        assert not client.of(Closed)
        await asyncio.sleep(2)
        assert client.of(Closed)[0].reason == "idle"


@virtual
async def test_a_session_ends_after_its_longest_duration_and_its_largest_number_of_turns() -> None:
    async with world(session={"max_duration_s": 20.0, "max_turns": 2}) as w:
        one = await w.connect()
        await asyncio.sleep(21)
        assert one.of(Closed)[0].reason == "duration"
        two = await w.connect()
        for text in ("a", "b", "c"):
            two.put(TextIn(text))
            await asyncio.sleep(3)
        assert two.of(Closed)[0].reason == "turns"
        assert len(two.of(ReplyDone)) == 2


@virtual
async def test_end_of_input_lets_the_reply_end() -> None:
    async with world() as w:
        w.llm.replies = [["Here is your answer."]]
        client = await w.connect()
        client.put(TextIn("question"))
        client.inbox.put_nowait(None)
        assert (await client.closed()).reason == "client"
        assert client.of(ReplyDone)[0].outcome is Outcome.COMPLETED


@virtual
async def test_end_of_input_after_sound_without_words_ends_the_session() -> None:
    async with world() as w:
        w.asr.scripts = [""]
        client = await w.connect()
        client.put(AudioIn(speech(200)))
        client.inbox.put_nowait(None)
        assert (await client.closed(within_s=2)).reason == "client"
        assert [t.text for t in client.of(Transcript)] == [""]


@virtual
async def test_a_flood_of_requests_is_read_at_a_steady_pace() -> None:
    """Ten questions at once, then five a second; cancels cost less; audio is not held up for good."""
    async with world() as w:
        client = await w.connect()
        for _ in range(30):
            client.put(TextIn("question"))
        await asyncio.sleep(1)
        assert w.llm.streams <= 16
        await asyncio.sleep(4)
        assert client.inbox.empty()
        for _ in range(40):
            client.put(Cancel())
        client.put(AudioIn(silence(20)))
        await asyncio.sleep(0.5)
        assert client.inbox.empty()


@virtual
async def test_a_finished_sounding_transcript_ends_the_turn_early_and_an_unfinished_one_late() -> None:
    async with world() as w:
        w.asr.scripts = ["call my sister", "call my sister and"]
        client = await w.connect()
        await say(client, 800, 1200)
        await client.until(ReplyDone)
        await say(client, 1000, 1200)
        await client.until(ReplyDone, count=2)
        early, late = (d.timings["end_of_turn"] for d in client.of(ReplyDone))
        assert early < 290
        assert 600 < late < 700


@virtual
async def test_odd_bytes_and_bursts_make_no_difference() -> None:
    async with world() as w:
        w.asr.scripts = ["hello there"]
        client = await w.connect()
        pcm = speech(700) + silence(700)
        for at in range(0, len(pcm), 777):
            client.put(AudioIn(pcm[at : at + 777]))
        await client.until(ReplyDone)
        assert [t.text for t in client.of(Transcript) if t.final] == ["hello there"]
        client.put(Close())
