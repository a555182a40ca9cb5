"""A reply begun on a guess: nothing of it is heard, told or kept unless the guess was right."""

from __future__ import annotations

import pytest

from gateway.session.patience import Patience
from gateway.session.reply import same_words
from gateway.think.endings import Ending
from gateway.think.llm import LlmError, ToolRequest
from tests.support.fakes import FakeConnection
from tests.unit.session.harness import World, ev, say, silence, speech, virtual, world

EAGER = {"turn": {"eager": True, "patient": False}}
SAID = "what time is it"


async def asks(
    w: World, *, ms: float = 1000, script: str = SAID, configure: ev.Configure | None = None
) -> FakeConnection:
    w.asr.scripts = [script]
    client = await w.connect(ev.Hello(configure=configure) if configure else None)
    await client.play(speech(ms))
    return client


@virtual
async def test_a_right_guess_is_audible_with_the_final() -> None:
    async with world(**EAGER) as w:
        w.llm.first_s, w.tts.first_s = 0.1, 0.05
        client = await asks(w)
        await client.play(silence(150))
        assert w.llm.streams == 1
        assert not client.of(ev.ReplyStarted)
        done = await client.until(ev.ReplyDone)
        assert (w.llm.streams, done.outcome, done.text) == (1, ev.Outcome.COMPLETED, "All right.")
        assert done.timings["final_to_first_audio"] < 30
        assert [m.content for m in w.llm.prompts[0]][-1] == SAID
        assert w.count("parley_replies_thrown_away_total") == 0


@virtual
async def test_without_it_the_llm_waits_for_the_final() -> None:
    async with world() as w:
        client = await asks(w)
        await client.play(silence(150))
        assert w.llm.streams == 0
        await client.until(ev.ReplyDone)


@virtual
async def test_a_wrong_guess_is_thrown_away_unheard() -> None:
    async with world(**EAGER) as w:
        w.llm.replies = [["Guessed wrong."], ["Known right."]]
        client = await asks(w, ms=650, script="what time is it in new york")
        done = await client.until(ev.ReplyDone)
        await client.play(silence(500))
        assert w.llm.prompts[0][-1].content == "what time is"
        assert w.llm.prompts[1][-1].content == "what time is it in new york"
        assert (done.text, len(client.of(ev.ReplyStarted)), len(client.of(ev.ReplyDone))) == (
            "Known right.",
            1,
            1,
        )
        assert set(client.heard()) <= {1, -1}
        assert w.count("parley_replies_thrown_away_total") == 1
        assert w.count("parley_speech_thrown_away_seconds_total") > 0
        w.asr.scripts = ["and now"]
        await say(client)
        await client.until(ev.ReplyDone, count=2)
        assert [m.content for m in w.llm.prompts[2]][1:3] == ["what time is it in new york", "Known right."]


@virtual
async def test_going_on_makes_it_one_question() -> None:
    async with world(**EAGER) as w:
        client = await asks(w, ms=1100, script="what time is it there in new york now")
        await client.play(silence(150))
        assert w.llm.streams == 1
        await client.play(speech(800))
        assert not client.of(ev.ReplyStarted)
        await client.until(ev.ReplyDone)
        assert w.llm.prompts[-1][-1].content == "what time is it there in new york now"
        assert len(client.of(ev.ReplyDone)) == 1


@virtual
async def test_the_less_the_words_look_like_the_end_the_later_is_guessed() -> None:
    for script, ms, streams in (("i want to", 200, 0), ("i want to", 280, 1), ("go", 60, 0), ("go", 150, 1)):
        async with world(**EAGER) as w:
            client = await asks(w, script=script)
            await client.play(silence(ms))
            assert w.llm.streams == streams, (script, ms)
            await client.until(ev.ReplyDone)


@virtual
async def test_no_more_than_the_first_piece_is_synthesised_on_a_guess() -> None:
    async with world(turn={"eager": True, "hangover_ms": 600, "hangover_long_ms": 900}) as w:
        w.llm.replies = [["It is ten o'clock. ", "The sun shines. ", "Anything else?"]]
        client = await asks(w)
        await client.play(silence(550))
        assert len(w.tts.sentences) == 1
        done = await client.until(ev.ReplyDone)
        assert len(w.tts.sentences) == 3
        assert done.text == "It is ten o'clock. The sun shines. Anything else?"


@virtual
async def test_a_guess_calls_no_tool() -> None:
    async with world(turn={"eager": True, "hangover_ms": 600, "hangover_long_ms": 900}) as w:
        w.llm.replies = [[ToolRequest("c1", "clock", "{}")], ["Ten."]]
        client = await asks(w, configure=ev.Configure(tools=(ev.Tool("clock", "The time.", ""),)))
        await client.play(silence(550))
        assert w.llm.streams == 1
        assert not client.of(ev.ToolCall)
        call = await client.until(ev.ToolCall)
        client.put(ev.ToolResult(call.call_id, "10:00"))
        assert (await client.until(ev.ReplyDone)).text == "Ten."


@virtual
async def test_a_guess_that_fails_is_nobodys_trouble() -> None:
    async with world(**EAGER) as w:
        w.llm.replies = [[LlmError("The LLM fell over.")], ["Here I am."]]
        client = await asks(w)
        done = await client.until(ev.ReplyDone)
        assert (done.outcome, done.text) == (ev.Outcome.COMPLETED, "Here I am.")
        assert not client.of(ev.Error)


@virtual
async def test_a_guess_without_an_end_of_turn_ends_with_the_session() -> None:
    async with world(turn={"eager": True, "hangover_ms": 5_000, "hangover_long_ms": 5_000}) as w:
        client = await asks(w)
        await client.play(silence(300))
        assert w.llm.streams == 1
        await w.hang_up(client)
        assert not client.of(ev.ReplyStarted)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("what time is it", "What time is it?", True),
        ("it's ten", "It’s ten.", False),
        ("five five", "five, five.", True),
        ("grüß dich", "Grüß dich!", True),
        ("what time", "what times", False),
        ("a b", "ab", False),
    ],
)
def test_same_words(one: str, other: str, same: bool) -> None:
    assert same_words(one, other) is same


# ---- patience ----------------------------------------------------------------------------------


def patience(*pauses: float, learns: bool = True) -> Patience:
    """After a first turn without pauses, and one with these."""
    it = Patience(learns=learns)
    it.turn_over()
    for ms in pauses:
        it.paused(ms, 640)
    it.turn_over()
    return it


def test_words_decide_how_long_is_waited() -> None:
    waits = [patience().wait_ms(words, 200, 640) for words in Ending]
    assert waits == [640, 420, 200]


def test_a_user_who_pauses_is_waited_for() -> None:
    it = patience(160, 100)
    assert it.wait_ms(Ending.WHOLE, 200, 640) == 1.5 * 160 + 64
    assert it.wait_ms(Ending.UNSURE, 200, 640) == 420
    assert patience(500).wait_ms(Ending.WHOLE, 200, 640) == 640


def test_a_pause_that_ends_any_turn_teaches_nothing() -> None:
    assert patience(900).wait_ms(Ending.WHOLE, 200, 640) == 200


def test_what_was_learned_is_forgotten_after_some_turns() -> None:
    it = patience(400)
    for _ in range(8):
        it.turn_over()
    assert it.wait_ms(Ending.WHOLE, 200, 640) == 200


def test_a_user_not_known_yet_gets_more_time_where_the_reply_is_ready_at_once() -> None:
    it = Patience(learns=True)
    assert it.wait_ms(Ending.WHOLE, 200, 640, at_once=True) == 640
    assert it.wait_ms(Ending.WHOLE, 200, 640) == 200
    it.turn_over()
    assert it.wait_ms(Ending.WHOLE, 200, 640, at_once=True) == 200


def test_it_can_be_told_not_to_learn() -> None:
    it = patience(400, learns=False)
    assert it.wait_ms(Ending.WHOLE, 200, 640, at_once=True) == 200


@virtual
async def test_a_pause_inside_a_turn_is_learned_from() -> None:
    async with world() as w:
        w.asr.scripts = ["turn the lights on in the kitchen", SAID]
        client = await w.connect()
        await client.play(speech(600), silence(200), speech(800))
        first = await client.until(ev.ReplyDone)
        await client.play(speech(1000))
        second = await client.until(ev.ReplyDone, count=2)
        assert first.timings["end_of_turn"] >= 1.5 * 190
        assert 1.5 * 190 <= second.timings["end_of_turn"] <= 450
