"""Resilience: what a user meets while a part is failing, with the breakers the gateway puts before its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.breaker import Breaker, State
from gateway.listen.asr import AsrError
from gateway.listen.guarded_asr import GuardedRecognizer
from gateway.session.events import (
    Cancel,
    Error,
    Outcome,
    ReplyAudio,
    ReplyDone,
    ReplyText,
    Say,
    SpeechStarted,
    TextIn,
    Transcript,
    Warning,
)
from gateway.session.manager import Sessions
from gateway.speak.guarded_tts import GuardedSynthesizer
from gateway.speak.tts import Chunk, TtsError, VoiceModel
from gateway.think.guarded_llm import GuardedLlm
from gateway.think.llm import LlmError
from gateway.think.llm_errors import RefusedRequest
from tests.support.fakes import FakeConnection, silence, speech
from tests.support.virtual_time import settle
from tests.unit.session.harness import World, say, virtual


class Guarded(World):
    """Sessions over guarded parts, as `gateway.app` builds them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        limits = self.settings.breaker
        self.breakers = {
            part: Breaker(f"the {part}", failures=limits.failures, open_s=limits.open_s)
            for part in ("asr", "llm", "tts")
        }
        for part, breaker in self.breakers.items():
            self.metrics.watch_breaker(part, lambda breaker=breaker: breaker.state)  # type: ignore[misc]
        self.guarded_asr = GuardedRecognizer(self.asr, self.breakers["asr"])
        self.guarded_llm = GuardedLlm(self.llm, self.breakers["llm"])
        self.guarded_tts = GuardedSynthesizer(self.tts, self.breakers["tts"])
        self.sessions = Sessions(
            self.settings, self.guarded_asr, self.guarded_llm, self.guarded_tts, self.vad, self.metrics
        )

    def state(self, part: str) -> State:
        return State(int(self.count("parley_breaker_state", part=part)))


@asynccontextmanager
async def guarded(**settings: Any) -> AsyncIterator[Guarded]:
    it = Guarded(**settings)
    yield it
    await it.finish()


async def ask(client: FakeConnection, text: str = "hello") -> ReplyDone:
    """Typed; returns when its reply is over."""
    count = len(client.of(ReplyDone))
    client.put(TextIn(text))
    return await client.until(ReplyDone, count=count + 1)


def down() -> LlmError:
    return LlmError("The LLM cannot be reached.")


# ---- the LLM -----------------------------------------------------------------------------------


@virtual
async def test_llm_down_for_long_is_said_at_once_and_the_session_lives() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.llm.first_s = 8.0
        w.llm.replies = [[down()] for _ in range(5)]
        for _ in range(5):
            assert (await ask(client)).outcome is Outcome.FAILED
        assert w.state("llm") is State.OPEN
        begun = asyncio.get_running_loop().time()
        done = await ask(client)
        error = client.of(Error)[-1]
        assert client.at(error) - begun <= 0.02  # nobody waits out the deadline of 8 s a sixth time
        assert error.code == "llm_failed"
        assert "failed 5 times in a row" in error.message
        assert "try again then (the last failure: The LLM cannot be reached)" in error.message
        assert done.outcome is Outcome.FAILED
        assert w.llm.streams == 5
        w.llm.first_s = 0.05
        await client.play(silence(2_000))
        assert w.state("llm") is State.HALF_OPEN
        assert (await ask(client)).outcome is Outcome.COMPLETED
        assert w.state("llm") is State.CLOSED
        assert w.count("parley_part_errors_total", part="llm", code="llm_failed") == 6


@virtual
async def test_the_apology_is_spoken_while_the_llm_is_left_alone() -> None:
    async with guarded(llm={"apology": "I am sorry."}, breaker={"failures": 1, "open_s": 60}) as w:
        client = await w.connect()
        w.llm.replies = [[down()]]
        await ask(client)
        await client.until(ReplyDone, count=2)  # the first apology
        assert (await ask(client)).outcome is Outcome.FAILED
        await client.until(ReplyDone, count=4)
        assert [text.text for text in client.of(ReplyText)] == ["I am sorry."] * 2
        assert w.llm.streams == 1


@virtual
async def test_half_open_lets_one_session_try_and_tells_the_others() -> None:
    async with guarded() as w:
        clients = [await w.connect() for _ in range(10)]
        w.llm.replies = [[down()] for _ in range(5)]
        for _ in range(5):
            await ask(clients[0])
        assert (await ask(clients[1])).outcome is Outcome.FAILED  # one breaker for all sessions
        await asyncio.sleep(2.0)
        w.llm.first_s = 1.0
        for client in clients:
            client.put(TextIn("all at once"))
        await settle()
        assert w.llm.streams == 5 + 1
        told = [client.of(Error)[-1].message for client in clients if client.of(Error)]
        assert sum("left alone" in message for message in told) == 9
        await asyncio.sleep(1.1)
        outcomes = await asyncio.gather(*(ask(client) for client in clients[5:]))
        assert {done.outcome for done in outcomes} == {Outcome.COMPLETED}


@virtual
async def test_replies_that_break_off_in_the_middle_count() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.llm.replies = [["Once upon a time. ", LlmError("broke off in the middle")] for _ in range(5)]
        for number in range(5):
            assert w.state("llm") is State.CLOSED, number
            assert (await ask(client)).outcome is Outcome.FAILED
        assert w.state("llm") is State.OPEN


@virtual
async def test_what_the_user_stops_counts_neither_way() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.llm.replies = [[down()]] * 4 + [["A long story. "] * 50, [down()]]
        for _ in range(4):
            await ask(client)
        client.put(TextIn("tell me a story"))
        await client.until(ReplyAudio)
        client.put(Cancel())
        await client.until(ReplyDone, count=5)
        assert w.state("llm") is State.CLOSED
        assert (await ask(client)).outcome is Outcome.FAILED
        assert w.state("llm") is State.OPEN  # the fifth in a row: what was cut in between was no success


@virtual
async def test_refused_requests_and_keys_never_open_it() -> None:
    async with guarded() as w:
        client = await w.connect()
        for status in (400, 401, 403, 404, 409, 422) * 3:
            error = LlmError(f"The LLM refused the request ({status}).")
            error.__cause__ = RefusedRequest(status, "no")
            w.llm.replies = [[error]]
            assert (await ask(client)).outcome is Outcome.FAILED
            assert str(status) in client.of(Error)[-1].message
        assert w.llm.streams == 18
        assert w.state("llm") is State.CLOSED
        for status in (429, 500, 503, 502, 408):
            error = LlmError("The LLM is unwell.")
            error.__cause__ = RefusedRequest(status, "no")
            w.llm.replies = [[error]]
            await ask(client)
        assert w.state("llm") is State.OPEN


# ---- the synthesiser ---------------------------------------------------------------------------


@virtual
async def test_tts_down_for_long_is_said_at_once_and_the_session_lives() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.tts.first_s = 5.0
        w.tts.fail = {"Say this.": 0}
        for _ in range(5):
            client.put(Say("Say this."))
        await client.until(ReplyDone, count=5)
        assert w.state("tts") is State.OPEN
        begun = asyncio.get_running_loop().time()
        client.put(Say("Say that."))
        await client.until(ReplyDone, count=6)
        error = client.of(Error)[-1]
        assert client.at(error) - begun <= 0.02
        assert error.code == "tts_failed"
        assert "try again then (the last failure: the voice broke)" in error.message
        assert w.tts.streams == 5
        w.tts.first_s = 0.03
        await client.play(silence(2_000))
        client.put(Say("Say that."))
        assert (await client.until(ReplyDone, count=7)).outcome is Outcome.COMPLETED
        assert w.state("tts") is State.CLOSED


@virtual
async def test_a_client_that_asks_for_a_voice_that_is_not_there_harms_nobody() -> None:
    async with guarded() as w:
        mistaken = await w.connect()
        for number in range(10):
            with pytest.raises(TtsError):
                async for _ in GuardedSynthesizer(NoVoice(), w.breakers["tts"]).synthesize("Hello."):
                    pass
            assert w.state("tts") is State.CLOSED, number
        assert (await ask(mistaken)).outcome is Outcome.COMPLETED


class NoVoice:
    async def models(self) -> list[VoiceModel]:
        return []

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        raise TtsError("no voice bob for language en-US: there is slt", unwell=False)
        yield

    async def check(self) -> None: ...

    async def close(self) -> None: ...


# ---- the recogniser ----------------------------------------------------------------------------


@virtual
async def test_an_utterance_waits_with_its_audio_while_the_recogniser_is_left_alone() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.asr.fail = [AsrError("no recogniser answers") for _ in range(6)]
        w.asr.scripts = ["what is the time"]
        await say(client, 1_000)
        final = await client.until(Transcript, count=5)
        assert final.final
        assert final.text == "what is the time"
        # 0, 0.1, 0.3, 0.7, 1.5 s; then two seconds each of being left alone: at 3.5 it fails, at 5.5 it answers.
        assert w.asr.streams == 7
        onset = client.at(client.of(SpeechStarted)[0])
        assert 5.4 <= client.at(final) - onset <= 5.8
        told = [warning.message for warning in client.of(Warning)]
        assert sum("left alone" in message for message in told) == 2
        assert not client.of(Error)
        assert (await client.until(ReplyDone)).outcome is Outcome.COMPLETED


@virtual
async def test_a_recogniser_that_stays_down_is_an_error_after_the_budget_and_asked_seldom() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.asr.fail = [AsrError("no recogniser answers") for _ in range(1_000)]
        await say(client, 600)
        error = await client.until(Error)
        onset = client.at(client.of(SpeechStarted)[0])
        assert error.code == "asr_failed"
        assert 9.0 <= client.at(error) - onset <= 10.5
        assert w.asr.streams <= 5 + 4  # 14 without the breaker
        w.asr.fail = []
        w.asr.scripts = ["here I am"]
        await client.play(silence(2_000))
        await say(client, 800)
        assert (await client.until(ReplyDone)).outcome is Outcome.COMPLETED


@virtual
async def test_speech_that_begins_while_the_recogniser_is_left_alone_is_not_lost() -> None:
    async with guarded(breaker={"failures": 1, "open_s": 3.0}) as w:
        first, *others = [await w.connect() for _ in range(5)]
        w.asr.fail = [AsrError("no recogniser answers")]
        w.asr.scripts = ["hello there again"] * 5
        talking = [asyncio.create_task(say(first, 600))]
        await asyncio.sleep(0.5)
        assert w.state("asr") is State.OPEN
        begun = asyncio.get_running_loop().time()
        talking += [asyncio.create_task(say(client, 600)) for client in others]
        await asyncio.sleep(1.0)
        assert w.asr.streams == 1  # nobody bothers it
        for client in others:
            (warning,) = client.of(Warning)
            assert "left alone" in warning.message
            assert client.at(warning) - begun < 0.1
        w.asr.final_delay_s = 0.3
        await asyncio.gather(*talking)
        finals = [await client.until(Transcript, count=4) for client in (first, *others)]
        assert [final.text for final in finals] == ["hello there again"] * 5
        assert w.asr.streams == 1 + 5
        assert not any(client.of(Error) for client in others)


@virtual
async def test_a_recognisers_refusal_is_told_and_opens_nothing() -> None:
    async with guarded() as w:
        client = await w.connect()
        why = "refused the credentials: set PARLEY_ASR__API_KEY"
        w.asr.fail = [AsrError(why, retryable=False) for _ in range(8)]
        for count in range(1, 9):
            await say(client, 400)
            await client.until(Error, count=count)
        assert all(why in error.message for error in client.of(Error))
        assert w.state("asr") is State.CLOSED
        w.asr.scripts = ["the key is right now"]
        await say(client, 1_200)
        assert (await client.until(ReplyDone)).outcome is Outcome.COMPLETED


@virtual
async def test_silence_and_interrupted_recognition_count_neither_way() -> None:
    async with guarded(breaker={"failures": 2}) as w:
        client = await w.connect()
        w.asr.fail = [AsrError("no recogniser answers")]
        cut = await w.connect()
        await cut.play(speech(300))
        await w.hang_up(cut)  # in the middle of a recognition
        assert w.state("asr") is State.CLOSED
        await say(client, 400)  # its final is empty: an answer all the same
        await client.until(Transcript)
        w.asr.fail = [AsrError("no recogniser answers")]
        w.asr.scripts = ["hello hello"]
        await say(client, 600)
        await client.until(ReplyDone)
        assert w.state("asr") is State.CLOSED


# ---- readiness ---------------------------------------------------------------------------------


@virtual
async def test_readiness_fails_while_a_part_is_left_alone_and_not_for_ever() -> None:
    async with guarded() as w:
        client = await w.connect()
        w.llm.replies = [[down()] for _ in range(5)]
        for _ in range(5):
            await ask(client)
        with pytest.raises(LlmError, match="left alone"):
            await w.guarded_llm.check()
        await w.guarded_asr.check()
        await w.guarded_tts.check()
        await asyncio.sleep(2.0)
        # Ready again before anybody has asked: without new sessions nobody ever would.
        await w.guarded_llm.check()
