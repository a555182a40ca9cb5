"""Chunks, utterances and their ends, in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio.pcm import Int16
from gateway.riva.endpointing import Detector, Endpointing
from gateway.riva.listening import MAX_UTTERANCE_S, Listening, Result
from gateway.riva.utterance import CHUNK, RATE, Utterance
from tests.support.fakes import FakeVad
from tests.support.virtual_time import run_virtual
from tests.unit.riva.parts import FakeAsr, ignored, loud, quiet


class Ears:
    def __init__(self, endpointing: Endpointing | None = None) -> None:
        self.asr, self.vad = FakeAsr(), FakeVad()
        self.results: list[Result] = []
        self.listening = Listening(
            lambda offset: Utterance(
                self.asr.open_soon, ignored, offset=offset, language="", hints=(), deadline_s=1
            ),
            endpointing=endpointing,
            detector=Detector(self.vad) if endpointing else None,
        )

    async def feed(self, *pieces: Int16, rate: int = RATE) -> None:
        for piece in pieces:
            self.results += [r async for r in self.listening.feed(piece, rate)]

    async def force(self) -> None:
        self.results += [r async for r in self.listening.end_utterance()]

    async def finish(self) -> None:
        self.results += [r async for r in self.listening.finish()]
        self.listening.close()
        assert self.asr.left_open == 0
        assert not self.vad.open_streams

    @property
    def finals(self) -> list[str]:
        return [r.heard.text for r in self.results if r.final]


def in_pieces(samples: Int16, size: int) -> list[Int16]:
    return [samples[i : i + size] for i in range(0, len(samples), size)]


@pytest.mark.parametrize("size", [1, 160, 320, 999, 16_000])
def test_audio_reaches_the_model_in_chunks_of_160_ms_and_the_rest_with_end(size: int) -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(*in_pieces(loud(1_000)[: 5_000 if size == 1 else None], size))
        await ears.finish()
        (call,) = ears.asr.calls
        total = 5_000 if size == 1 else RATE
        assert call.chunks == [CHUNK] * (total // CHUNK) + [total % CHUNK]
        assert len(ears.finals) == 1

    run_virtual(scenario())


def test_a_partial_is_out_with_the_chunk_that_made_it() -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(loud(320))
        assert [(r.heard.text, r.final, r.processed_s) for r in ears.results] == [("one", False, 0.32)]
        await ears.finish()

    run_virtual(scenario())


def test_last_chunk_carries_end_also_when_it_is_whole() -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(loud(640))
        await ears.finish()
        assert ears.asr.calls[0].chunks[-1] == 0
        assert ears.finals == ["one two"]

    run_virtual(scenario())


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_and_nothing_is_lost(rate: int) -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(*in_pieces(loud(1_000, rate), 441), rate=rate)
        await ears.finish()
        assert abs(sum(ears.asr.calls[0].chunks) - RATE) <= 16
        assert ears.finals == ["one two three"]

    run_virtual(scenario())


def test_an_unchanged_transcript_is_repeated_every_second() -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(loud(320), quiet(3_200))
        assert [r.heard.text for r in ears.results] == ["one"] * 3, "with the first chunk after each second"
        await ears.finish()

    run_virtual(scenario())


def test_without_endpointing_pauses_do_not_end_the_utterance() -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(loud(640), quiet(5_000), loud(640))
        await ears.finish()
        assert ears.finals == ["one two three four"]
        assert len(ears.asr.calls) == 1

    run_virtual(scenario())


def test_without_endpointing_silence_gives_one_empty_final_and_no_audio_gives_none() -> None:
    async def scenario() -> None:
        ears = Ears()
        await ears.feed(quiet(500))
        await ears.finish()
        assert ears.finals == [""]
        nothing = Ears()
        await nothing.finish()
        assert nothing.results == []

    run_virtual(scenario())


def test_a_pause_ends_the_utterance_and_the_next_one_is_timed_from_the_stream() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing())
        await ears.feed(quiet(960), loud(640), quiet(1_600))
        assert ears.finals == ["one two"], "the final is out before the stream ends"
        await ears.feed(quiet(3_200), loud(320), quiet(160))
        await ears.finish()
        assert ears.finals == ["one two", "one"]
        second = [r for r in ears.results if r.final][1].heard.words[0]
        assert abs(second.start_ms - (960 + 640 + 1_600 + 3_200)) <= 2

    run_virtual(scenario())


def test_between_utterances_the_model_hears_only_the_pre_roll() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing())
        await ears.feed(loud(640), quiet(60_000), loud(640))
        await ears.finish()
        first, second = ears.asr.calls
        assert sum(first.chunks) < RATE * 2
        assert second.chunks[:3] == [CHUNK] * 3
        assert sum(second.chunks) == RATE * (480 + 640) // 1000

    run_virtual(scenario())


def test_silence_after_the_last_utterance_makes_no_final() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing())
        await ears.feed(loud(640), quiet(2_000))
        await ears.finish()
        assert ears.finals == ["one two"]

    run_virtual(scenario())


def test_a_voice_too_faint_for_the_detector_is_still_recognised() -> None:
    async def scenario() -> None:
        deaf = Ears(Endpointing(start_threshold=1.0, start_history=60_000))
        await deaf.feed(loud(960))
        await deaf.finish()
        assert deaf.finals == ["one two three"]

    run_virtual(scenario())


def test_a_stream_of_silence_stops_costing_the_model_and_gives_no_final() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing())
        await ears.feed(quiet(60_000))
        await ears.finish()
        assert ears.finals == []
        assert sum(sum(call.chunks) for call in ears.asr.calls) <= RATE * 10 + CHUNK

    run_virtual(scenario())


def test_force_ends_the_utterance_at_once_and_the_stream_goes_on() -> None:
    async def scenario() -> None:
        for endpointing in (None, Endpointing()):
            ears = Ears(endpointing)
            await ears.feed(loud(700))
            await ears.force()
            assert ears.finals == ["one two"]
            await ears.force()
            assert ears.finals == ["one two"], "there is nothing to end"
            await ears.feed(loud(640))
            await ears.finish()
            assert ears.finals == ["one two", "one two"]

    run_virtual(scenario())


def test_two_pass_end_gives_an_ending_partial_before_the_final() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing(stop_history=800, stop_history_eou=320))
        await ears.feed(loud(640), quiet(1_600))
        await ears.finish()
        ending = [i for i, r in enumerate(ears.results) if r.ending]
        final = [i for i, r in enumerate(ears.results) if r.final]
        assert len(ending) == len(final) == 1
        assert ending[0] < final[0]
        assert ears.results[ending[0]].heard.text == "one two"

    run_virtual(scenario())


def test_speech_without_a_pause_is_cut_at_the_longest_utterance() -> None:
    async def scenario() -> None:
        for endpointing in (None, Endpointing()):
            ears = Ears(endpointing)
            await ears.feed(loud(1_000 * (MAX_UTTERANCE_S + 10)))
            await ears.finish()
            assert len(ears.finals) == 2
            words = sum(len(final.split()) for final in ears.finals)
            assert abs(words - (MAX_UTTERANCE_S + 10) / 0.32) <= 4

    run_virtual(scenario())


def test_speech_that_goes_on_in_the_chunk_that_ended_an_utterance_is_heard() -> None:
    async def scenario() -> None:
        ears = Ears(Endpointing(stop_history=64, start_history=32))
        await ears.feed(np.concatenate((loud(160), quiet(64), loud(736))))
        await ears.feed(quiet(320))
        await ears.finish()
        assert sum(len(final.split()) for final in ears.finals) >= 2

    run_virtual(scenario())
