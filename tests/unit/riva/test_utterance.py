"""One utterance on one model: START, END, lost sequences and their replay, in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.riva.utterance import CHUNK, RATE, Audio, Utterance
from gateway.triton.errors import SequenceLost, TritonError, TritonTimeout, TritonUnavailable
from tests.support.virtual_time import run_virtual
from tests.unit.riva.parts import FakeAsr, ignored

LOUD: Audio = np.full(CHUNK, 0.3, np.float32)
END: Audio = np.zeros(0, np.float32)


def utterance(asr: FakeAsr, *, offset: int = 0) -> Utterance:
    return Utterance(asr.open_soon, ignored, offset=offset, language="en-US", hints=("ten",), deadline_s=1.0)


def test_start_language_and_hints_go_with_the_first_chunk_and_end_with_the_last() -> None:
    async def scenario() -> None:
        asr = FakeAsr()
        heard = utterance(asr)
        for _ in range(4):
            await heard.feed(LOUD)
        final = await heard.feed(END, end=True)
        assert final.text == "one two"
        assert final.stable == len("one two")
        (call,) = asr.calls
        assert (call.language, call.hints, call.chunks) == ("en-US", ("ten",), [CHUNK] * 4 + [0])
        assert call.ended
        heard.give_up()
        assert not call.given_up, "what has ended is not ended again"

    run_virtual(scenario())


def test_word_times_count_from_the_start_of_the_stream() -> None:
    async def scenario() -> None:
        heard = utterance(FakeAsr(), offset=RATE * 3)
        await heard.feed(LOUD)
        final = await heard.feed(LOUD, end=True)
        assert [(w.text, w.start_ms, w.end_ms) for w in final.words] == [("one", 3_000, 3_319)]

    run_virtual(scenario())


def test_a_lost_sequence_is_begun_again_with_what_was_heard() -> None:
    async def scenario() -> None:
        asr = FakeAsr()
        heard = utterance(asr)
        for _ in range(3):
            await heard.feed(LOUD)
        asr.script = [SequenceLost("gone")]
        now = await heard.feed(LOUD)
        assert now.text == "one two"
        first, second = asr.calls
        assert first.given_up, "the lost sequence is given up, or its stream would stay open"
        assert second.chunks == [CHUNK] * 4
        assert (await heard.feed(LOUD, end=True)).text == "one two"
        assert asr.left_open == 0

    run_virtual(scenario())


def test_only_the_last_seconds_are_replayed_and_older_words_stay() -> None:
    async def scenario() -> None:
        asr = FakeAsr()
        heard = utterance(asr)
        for _ in range(150):  # 24 s: 4 s of them can no longer be replayed
            before = await heard.feed(LOUD)
        asr.script = [SequenceLost("gone")]
        after = await heard.feed(LOUD)
        assert len(asr.calls[1].chunks) == 125, "20 s"
        assert len(after.words) == len(before.words)
        assert after.words[0].start_ms == 0
        assert abs(after.words[-1].end_ms - before.words[-1].end_ms) <= 320
        assert after.text == " ".join(word.text for word in after.words)

    run_virtual(scenario())


def test_an_end_that_found_the_sequence_lost_is_replayed_to_its_end() -> None:
    async def scenario() -> None:
        asr = FakeAsr()
        heard = utterance(asr)
        await heard.feed(LOUD)
        asr.script = [SequenceLost("gone")]
        assert (await heard.feed(LOUD, end=True)).text == "one"
        assert asr.calls[1].ended

    run_virtual(scenario())


def test_a_model_that_went_away_is_tried_once_more_and_then_reported() -> None:
    async def scenario() -> None:
        asr = FakeAsr()
        heard = utterance(asr)
        await heard.feed(LOUD)
        asr.script = [TritonUnavailable("restarting")]
        assert (await heard.feed(LOUD)).text == "one"
        asr.script = [TritonUnavailable("down"), TritonUnavailable("down")]
        with pytest.raises(TritonUnavailable, match="down"):
            await heard.feed(LOUD)
        heard.give_up()
        assert asr.left_open == 0

    run_virtual(scenario())


def test_a_silent_model_and_a_refusal_are_not_tried_again() -> None:
    async def scenario() -> None:
        for failure in (TritonTimeout("silent"), TritonError("refused")):
            asr = FakeAsr()
            heard = utterance(asr)
            asr.script = [failure]
            with pytest.raises(type(failure)):
                await heard.feed(LOUD)
            heard.give_up()
            assert len(asr.calls) == 1
            assert asr.left_open == 0

    run_virtual(scenario())


def test_an_answer_outside_the_contract_is_an_error() -> None:
    class Odd(FakeAsr):
        def open(self, *_: object) -> object:  # type: ignore[override]
            call = super().open()
            call._answer = lambda end: {"NOTHING": np.zeros(1)}  # type: ignore[method-assign]
            return call

    async def scenario() -> None:
        with pytest.raises(TritonError, match="contract"):
            await utterance(Odd()).feed(LOUD)

    run_virtual(scenario())
