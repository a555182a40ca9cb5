"""Barge-in: mistakes of earlier systems, each line a test."""

from __future__ import annotations

import pytest

from gateway.session.barge_in import Judge, Verdict, is_backchannel
from gateway.session.events import (
    Cancel,
    Configure,
    Flushed,
    Hello,
    Outcome,
    ReplyAudio,
    ReplyDone,
    ReplyStarted,
    Say,
    SpeechStarted,
    State,
    TextIn,
    Transcript,
    Truncate,
)
from gateway.settings import BargeInSettings
from tests.support.fakes import FakeConnection, silence, speech
from tests.unit.session.harness import World, say, virtual, world

LONG = ["The quick brown fox jumps over the lazy dog near the river bank. ", "And then it rests a while."]


async def speaking(w: World, frames: int = 40) -> FakeConnection:
    """A client in the middle of a long reply."""
    w.llm.replies.insert(0, LONG)
    client = await w.connect()
    client.put(TextIn("go on"))
    await client.until(ReplyAudio, count=frames)
    return client


@virtual
async def test_no_barge_before_first_audio_is_on_the_wire() -> None:
    async with world() as w:
        w.llm.first_s = 2.0
        w.llm.replies = [["Here it is."]]
        w.asr.scripts = ["are you there"]
        client = await w.connect()
        client.put(TextIn("question"))
        await client.play(speech(100), silence(400))  # over a reply nobody hears yet
        assert State.BARGED_IN not in client.states
        assert not client.of(Flushed)
        assert w.count("parley_barge_ins_total", kind="true") == 0


@pytest.mark.parametrize(
    ("voiced_ms", "text", "verdict"),
    [
        (249, "", Verdict.OPEN),
        (251, "", Verdict.REAL),
        (249, "uh huh", Verdict.OPEN),
        (699, "uh huh", Verdict.OPEN),
        (701, "uh huh", Verdict.REAL),
        (128, "stop", Verdict.REAL),
        (127, "stop", Verdict.OPEN),
    ],
)
def test_249_ms_voiced_does_not_cancel_251_does_699_701_while_only_backchannels(
    voiced_ms: int, text: str, verdict: Verdict
) -> None:
    judge = Judge(BargeInSettings(), hangover_ms=280)
    judge.recognised(text)
    for _ in range(voiced_ms):
        judge.voiced(1)
    assert judge.verdict is verdict


@virtual
async def test_seven_windows_resume_and_eight_windows_cancel() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(7 * 32), silence(600))
        assert client.states[-2:] == [State.BARGED_IN, State.SPEAKING]
        await client.play(speech(9 * 32), silence(100))
        assert client.of(ReplyDone)[0].outcome is Outcome.INTERRUPTED
        assert w.count("parley_barge_ins_total", kind="false") == 1
        assert w.count("parley_barge_ins_total", kind="true") == 1


def test_hangover_longer_than_window_does_not_fire() -> None:
    judge = Judge(BargeInSettings(), hangover_ms=400)
    judge.voiced(200)
    for _ in range(390):
        judge.silent(1)
    assert judge.verdict is Verdict.OPEN  # 200 ms voiced + 390 ms of silence are not 590 ms voiced
    assert judge.silent(10) is Verdict.SILENT


@virtual
async def test_continued_or_split_speech_does_not_cancel_its_own_turn() -> None:
    async with world() as w:
        w.llm.first_s = 0.5
        w.asr.scripts = ["call my sister", "in new york"]
        w.llm.replies = [["Calling."], ["Calling New York."]]
        client = await w.connect()
        await client.play(speech(800), silence(450), speech(700))  # the pause ended the turn
        done = await client.until(ReplyDone)
        assert done.outcome is Outcome.COMPLETED
        assert len(client.of(ReplyStarted)) == 1
        assert len({t.turn_id for t in client.of(Transcript)}) == 1
        assert w.llm.prompts[-1][-1].content == "call my sister in new york"
        assert w.count("parley_turns_total", outcome="cancelled") == 0
        assert w.count("parley_turns_total", outcome="interrupted") == 0


@virtual
async def test_noise_while_a_reply_is_prepared_does_not_lose_it() -> None:
    async with world() as w:
        w.llm.first_s = 0.6
        w.asr.scripts = ["call my sister", ""]
        w.llm.replies = [["Calling."]]
        client = await w.connect()
        await client.play(speech(800), silence(450), speech(64))
        done = await client.until(ReplyDone)
        assert (done.outcome, done.text) == (Outcome.COMPLETED, "Calling.")
        assert w.llm.streams == 1


@virtual
async def test_fire_cancels_only_the_captured_turn_id() -> None:
    async with world() as w:
        client = await speaking(w)
        w.llm.replies = [["A second answer to something else."]]
        first = client.of(ReplyStarted)[0].reply_id
        await client.play(speech(96))  # the interruption captures the first reply…
        client.put(TextIn("something else"))  # …which the user then replaces
        await client.play(speech(400), silence(1500))
        second = await client.until(ReplyDone, count=2)
        assert client.of(ReplyDone)[0].reply_id == first
        assert second.reply_id != first
        assert second.outcome is Outcome.COMPLETED


@virtual
async def test_backchannel_still_transcribed_and_the_reply_goes_on() -> None:
    async with world() as w:
        client = await speaking(w)
        w.asr.scripts = ["uh huh"]
        await client.play(speech(450), silence(900))
        assert [t.text for t in client.of(Transcript) if t.final] == ["uh huh"]
        done = await client.until(ReplyDone)
        assert done.outcome is Outcome.COMPLETED
        assert done.text == "".join(LONG).strip()
        assert w.llm.streams == 1, "a backchannel is no question"


def test_what_a_backchannel_is() -> None:
    s = BargeInSettings()
    assert is_backchannel("Uh-huh, yeah. I see!", s)
    assert not is_backchannel("yeah but wait", s)
    assert not is_backchannel("", s)


@virtual
async def test_after_flush_zero_stale_frames_at_client() -> None:
    async with world() as w:
        w.asr.scripts = ["no wait", "", "stop it now"]
        for cut in (60, 600, 90, 700):
            client = await speaking(w)
            await client.play(speech(cut), silence(900))
            assert client.of(Flushed)
            assert not client.stale()
            await w.hang_up(client)


@virtual
async def test_flush_reaches_every_hop_incl_partial_frame_accumulator() -> None:
    async with world() as w:
        client = await speaking(w)
        w.llm.replies = [["Something new."]]
        w.asr.scripts = ["stop that please"]
        old = set(client.heard())
        await client.play(speech(600), silence(100))
        await client.until(ReplyDone)
        new_reply = await client.until(ReplyStarted, count=2)
        await client.until(ReplyDone, count=2)
        new = client.heard(new_reply.reply_id)
        assert new, "the next reply is heard"
        assert not old & set(new), "audio of the old reply leaked into the new one"


@virtual
async def test_control_read_while_speaking() -> None:
    async with world() as w:
        client = await speaking(w)
        before = len(client.sent)
        client.put(Cancel())
        await client.play(silence(20))
        kinds = [type(s.event).__name__ for s in client.sent[before:]]
        assert "Flushed" in kinds
        assert "ReplyDone" in kinds
        assert client.of(ReplyDone)[0].outcome is Outcome.CANCELLED


@virtual
async def test_pause_within_a_frame_and_flush_at_the_onset() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(64))
        onset, flush = client.of(SpeechStarted)[0], client.of(Flushed)[0]
        assert client.at(flush) - client.at(onset) <= 0.020
        last = max(s.at for s in client.sent if isinstance(s.event, ReplyAudio))
        assert last - client.at(onset) <= 0.020


@virtual
async def test_a_false_alarm_resumes_from_the_first_frame_not_heard_under_a_new_generation() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(64), silence(700))
        flushed = client.of(Flushed)[0].generation
        frames = client.of(ReplyAudio)
        before = [f for f in frames if f.generation == flushed]
        after = [f for f in frames if f.generation == flushed + 1]
        assert after[0].sequence == 0
        sent_ahead = before[-1].offset_ms + 20 - after[0].offset_ms
        assert 0 < sent_ahead <= 80, "the lead, flushed unheard, is sent again; what was heard is not"
        await client.until(ReplyDone)
        assert client.states[-1] is State.WAITING_FOR_INPUT


@virtual
async def test_the_clients_reported_position_decides_what_is_sent_again() -> None:
    async with world() as w:
        client = await speaking(w)
        await client.play(speech(64))
        reply_id = client.of(Flushed)[0].reply_id
        client.put(Truncate(reply_id, 300))
        await client.play(silence(700))
        resumed = [f for f in client.of(ReplyAudio) if f.generation == client.of(Flushed)[0].generation + 1]
        assert resumed[0].offset_ms == 300


@virtual
async def test_history_is_cut_to_what_was_heard_and_marked_interrupted() -> None:
    async with world() as w:
        w.asr.scripts = ["what about cats"]
        client = await speaking(w, frames=60)  # 1.2 s of a reply of several seconds
        w.llm.replies = [["Cats."]]
        await say(client, 600)
        cut = await client.until(ReplyDone)
        await client.until(ReplyDone, count=2)
        whole = "".join(LONG).strip()
        assert 0 < len(cut.text) < len(whole) / 2
        assert whole.startswith(cut.text)
        assert (cut.text + " " + cut.unheard).split() == whole.split()
        kept = w.llm.prompts[-1][-2]
        assert kept.role == "assistant"
        assert kept.content.startswith(cut.text)
        assert kept.content.endswith("…")


@virtual
async def test_cancellation_stops_the_llm_and_the_synthesis() -> None:
    async with world() as w:
        w.tts.chunk_s = 0.09
        client = await speaking(w)
        w.llm.replies = [[]]
        w.asr.scripts = ["stop talking please"]
        await client.play(speech(600))
        chunks, tokens = w.tts.chunks, w.llm.tokens
        await client.play(silence(200))
        assert w.tts.chunks == chunks
        assert w.llm.tokens == tokens
        assert w.tts.released == w.tts.streams


@virtual
async def test_a_short_real_word_interrupts_even_after_the_hangover() -> None:
    async with world() as w:
        w.asr.scripts = ["stop"]
        client = await speaking(w)
        w.llm.replies = [["Okay."]]
        await client.play(speech(220), silence(500))
        assert client.of(ReplyDone)[0].outcome is Outcome.INTERRUPTED
        assert w.llm.prompts[-1][-1].content.endswith("stop")


@virtual
async def test_a_blip_is_no_interruption_whatever_the_recogniser_hears_in_its_pre_roll() -> None:
    async with world() as w:
        client = await speaking(w)
        w.asr.scripts = ["here is a story"]
        await client.play(speech(64), silence(900))
        assert client.states[-1] is State.SPEAKING
        assert (await client.until(ReplyDone)).outcome is Outcome.COMPLETED


@virtual
async def test_words_that_do_not_come_do_not_keep_the_reply_silent() -> None:
    async with world() as w:
        client = await speaking(w)
        w.asr.deaf = True
        await client.play(speech(96), silence(224 + 32 + 400 + 60))
        assert client.states[-1] is State.SPEAKING
        w.asr.deaf = False


@virtual
async def test_a_reply_that_may_not_be_interrupted_is_heard_out_and_the_question_answered_after_it() -> None:
    async with world() as w:
        w.asr.scripts = ["what time is it"]
        client = await w.connect()
        client.put(Say("This call is recorded for training and quality purposes.", interruptible=False))
        await client.until(ReplyAudio, count=10)
        w.llm.replies = [["Noon."]]
        await say(client, 900)
        await client.until(ReplyDone, count=2)
        assert not client.of(Flushed)
        assert [d.outcome for d in client.of(ReplyDone)] == [Outcome.COMPLETED] * 2
        assert client.of(ReplyDone)[1].text == "Noon."


@virtual
async def test_barge_in_can_be_switched_off_per_session() -> None:
    async with world() as w:
        w.llm.replies = [LONG]
        client = await w.connect(Hello(configure=Configure(barge_in=False)))
        client.put(TextIn("go on"))
        await client.until(ReplyAudio, count=20)
        await client.play(speech(600), silence(600))
        assert not client.of(Flushed)
        assert client.states[-1] is State.SPEAKING
