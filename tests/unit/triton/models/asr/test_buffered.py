"""Whole-utterance models, chunk by chunk: what is stable, what is committed, and when nothing is decoded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.triton.models.asr.buffered import Buffered, Utterance
from gateway.triton.models.asr.engine import Heard, Job, Samples, Word

RATE = 16_000
WORD, PAUSE = RATE // 5, RATE // 10


def spoken(*numbers: int) -> Samples:
    """Each number is said for 200 ms as its own level, with 100 ms of silence behind it."""
    parts = [np.repeat(np.array([number / 1000, 0], np.float32), [WORD, PAUSE]) for number in numbers]
    return np.concatenate([*parts, np.zeros(0, np.float32)])


class Ear:
    """Reads such levels. A word that the audio ends within is heard as another one."""

    def __init__(self, max_s: float = 30.0, max_batch: int = 8) -> None:
        self.max_batch = max_batch
        self.max_s = max_s
        self.batches: list[list[int]] = []
        self.languages: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        self.before()
        assert all(0 < len(audio) <= self.max_s * RATE for audio in audios)
        assert len(audios) <= self.max_batch
        self.batches.append([len(audio) for audio in audios])
        self.languages += languages
        return [self.words(audio) for audio in audios]

    def words(self, audio: Samples) -> list[Word]:
        edges = np.flatnonzero(np.diff(audio)) + 1
        bounds = [0, *edges.tolist(), len(audio)]
        words = []
        for first, last in itertools.pairwise(bounds):
            level = round(float(audio[first]) * 1000)
            if level:
                text = str(level) if last - first >= WORD else f"{level}-"
                words.append(Word(text, first * 1000 // RATE, last * 1000 // RATE))
        return words


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def hear(buffered: Buffered, utterance: Utterance, audio: Samples, last: bool = False) -> Heard:
    (heard,) = buffered.step([Job(utterance, audio, last)])
    assert isinstance(heard, Heard)
    return heard


def texts(heard: Heard) -> list[str]:
    return [word.text for word in heard.words]


def chunks(audio: Samples, size: int) -> list[Samples]:
    return [audio[at : at + size] for at in range(0, len(audio), size)]


def test_what_two_decodes_begin_with_is_stable() -> None:
    buffered = Buffered(Ear(), clock=Clock())
    utterance = buffered.begin()
    audio = spoken(1, 2, 3, 4)
    first = hear(buffered, utterance, audio[: RATE // 2])  # 200 ms of the second word
    assert (texts(first), first.stable) == (["1", "2"], 0)
    second = hear(buffered, utterance, audio[RATE // 2 : RATE * 99 // 100])
    assert (texts(second), second.stable) == (["1", "2", "3", "4-"], 2)
    end = hear(buffered, utterance, audio[RATE * 99 // 100 :], last=True)
    assert (texts(end), end.stable) == (["1", "2", "3", "4"], 4)


def test_three_must_agree_where_three_are_asked() -> None:
    buffered = Buffered(Ear(), agreement=3, clock=Clock())
    utterance = buffered.begin()
    audio = spoken(*range(1, 9))
    stable = [hear(buffered, utterance, chunk).stable for chunk in chunks(audio, RATE // 2)]
    assert stable[:3] == [0, 0, 2]


def test_without_agreement_nothing_is_stable_before_the_end() -> None:
    buffered = Buffered(Ear(), agreement=0, clock=Clock())
    utterance = buffered.begin()
    audio = spoken(*range(1, 9))
    heard = [hear(buffered, utterance, chunk) for chunk in chunks(audio, RATE // 2)]
    assert {one.stable for one in heard} == {0}
    assert hear(buffered, utterance, audio[:0], last=True).stable == 8


def test_a_promise_is_kept_when_the_model_changes_its_mind() -> None:
    class Fickle(Ear):
        def words(self, audio: Samples) -> list[Word]:
            words = super().words(audio)
            return words if len(self.batches) < 3 else [Word(f"{w.text}!", *w[1:]) for w in words]

    buffered = Buffered(Fickle(), clock=Clock())
    utterance = buffered.begin()
    heard = [hear(buffered, utterance, chunk) for chunk in chunks(spoken(1, 2, 3, 4, 5), RATE // 2)]
    assert heard[1].stable == 2
    end = hear(buffered, utterance, spoken(6), last=True)
    assert texts(end) == ["1", "2", "3!", "4!", "5!", "6!"]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2 * RATE), max_size=12),
    max_s=st.sampled_from([4.0, 30.0]),
    agreement=st.sampled_from([0, 2, 3]),
)
def test_any_chunks_end_with_the_same_words_and_break_no_promise(
    sizes: list[int], max_s: float, agreement: int
) -> None:
    audio = spoken(*range(1, 40))[: sum(sizes)]
    ear = Ear(max_s=max_s)
    buffered = Buffered(ear, agreement=agreement, clock=Clock())
    utterance = buffered.begin()
    promise: list[str] = []
    at = 0
    for number, size in enumerate([*sizes, 0]):
        heard = hear(buffered, utterance, audio[at : at + size], last=number == len(sizes))
        at += size
        assert texts(heard)[: len(promise)] == promise
        promise = texts(heard)[: heard.stable]
        edges = [edge for word in heard.words for edge in word[1:]]
        assert edges == sorted(edges)
        assert not edges or edges[-1] <= at * 1000 // RATE + 1
    whole = Ear().words(audio) if len(audio) else []
    assert heard.words == whole or [w.text for w in whole] == texts(heard)
    assert utterance.held <= max_s * RATE


def test_a_long_utterance_is_cut_in_a_pause_and_its_audio_forgotten() -> None:
    ear = Ear(max_s=6.0)
    buffered = Buffered(ear, clock=Clock())
    utterance = buffered.begin()
    audio = spoken(*range(1, 101))  # 30 s
    for chunk in chunks(audio, RATE // 10):
        heard = hear(buffered, utterance, chunk)
        assert utterance.held <= 6 * RATE
    assert heard.stable >= 80
    end = hear(buffered, utterance, audio[:0], last=True)
    assert texts(end) == [str(number) for number in range(1, 101)]
    for number, word in enumerate(end.words):
        assert abs(word.start_ms - 300 * number) <= 1
        assert abs(word.end_ms - 300 * number - 200) <= 1


def test_a_long_utterance_in_one_chunk() -> None:
    ear = Ear(max_s=6.0)
    buffered = Buffered(ear, clock=Clock())
    end = hear(buffered, buffered.begin(), spoken(*range(1, 101)), last=True)
    assert texts(end) == [str(number) for number in range(1, 101)]
    assert len(ear.batches) < 15


def test_a_word_without_end_is_cut_all_the_same() -> None:
    ear = Ear(max_s=6.0)
    buffered = Buffered(ear, clock=Clock())
    utterance = buffered.begin()
    for _ in range(20):
        hear(buffered, utterance, np.full(RATE, 0.007, np.float32))
        assert utterance.held <= 6 * RATE
    end = hear(buffered, utterance, np.zeros(0, np.float32), last=True)
    assert set(texts(end)) == {"7"}
    assert len(ear.batches) < 60


def test_nothing_new_is_not_decoded() -> None:
    ear = Ear()
    buffered = Buffered(ear, clock=Clock())
    utterance = buffered.begin()
    nothing = np.zeros(0, np.float32)
    assert hear(buffered, utterance, nothing) == Heard([], 0)
    hear(buffered, utterance, spoken(1, 2))
    assert len(ear.batches) == 1
    hear(buffered, utterance, nothing)
    hear(buffered, utterance, spoken(3)[:100])  # less than an interval
    assert len(ear.batches) == 1
    hear(buffered, utterance, spoken(3)[100:], last=True)
    assert ear.batches[1:] == [[len(spoken(1, 2, 3))]]


def test_the_end_of_what_was_decoded_is_not_decoded_again() -> None:
    ear = Ear()
    buffered = Buffered(ear, clock=Clock())
    utterance = buffered.begin()
    hear(buffered, utterance, spoken(1, 2))
    assert texts(hear(buffered, utterance, np.zeros(0, np.float32), last=True)) == ["1", "2"]
    assert len(ear.batches) == 1


def test_an_utterance_of_nothing() -> None:
    ear = Ear()
    buffered = Buffered(ear, clock=Clock())
    assert hear(buffered, buffered.begin(), np.zeros(0, np.float32), last=True) == Heard([], 0)
    assert ear.batches == []


def test_silence_is_decoded_once_behind_a_word_and_at_the_end() -> None:
    ear = Ear()
    buffered = Buffered(ear, clock=Clock())
    utterance = buffered.begin()
    second = np.zeros(RATE, np.float32)
    for _ in range(3):
        hear(buffered, utterance, second)
    assert ear.batches == []
    hear(buffered, utterance, spoken(5))
    hear(buffered, utterance, second)
    assert len(ear.batches) == 2
    for _ in range(5):
        hear(buffered, utterance, second)
    assert len(ear.batches) == 2
    assert texts(hear(buffered, utterance, second, last=True)) == ["5"]
    assert len(ear.batches) == 3


def test_those_that_are_due_share_a_batch() -> None:
    ear = Ear()
    buffered = Buffered(ear, clock=Clock())
    due, early, other = (buffered.begin(language) for language in ("de", "en", "fr"))
    jobs = [
        Job(due, spoken(1, 2), False),
        Job(early, spoken(3), False),
        Job(other, spoken(4, 5, 6), False),
    ]
    heard = buffered.step(jobs)
    assert [texts(one) for one in heard if isinstance(one, Heard)] == [["1", "2"], [], ["4", "5", "6"]]
    assert ear.batches == [[len(spoken(1, 2)), len(spoken(4, 5, 6))]]
    assert ear.languages == ["de", "fr"]


def test_what_ends_is_decoded_before_what_goes_on() -> None:
    ear = Ear()
    buffered = Buffered(ear, agreement=0)
    ending, going_on = buffered.begin(), buffered.begin()
    jobs = [Job(going_on, spoken(1, 2, 3), False), Job(ending, spoken(4, 5), True)]
    heard = [one for one in buffered.step(jobs) if isinstance(one, Heard)]
    assert [texts(one) for one in heard] == [[], ["4", "5"]]
    assert [len(batch) for batch in ear.batches] == [1]
    assert texts(hear(buffered, going_on, spoken(4))) == ["1", "2", "3", "4"]


def test_a_slow_model_decodes_less_often() -> None:
    """Half of the engine's time at most, shared by all that are open; END waits for nobody."""
    clock = Clock()
    ear = Ear()

    def slow() -> None:
        clock.now += 1.0

    ear.before = slow
    buffered = Buffered(ear, clock=clock)
    utterances = [buffered.begin() for _ in range(4)]
    hear(buffered, utterances[0], spoken(1, 2))
    for _ in range(7):
        clock.now += 0.5
        hear(buffered, utterances[0], spoken(3, 4))
    assert len(ear.batches) == 1
    clock.now += 0.5
    hear(buffered, utterances[0], spoken(5, 6))
    assert len(ear.batches) == 2
    assert hear(buffered, utterances[0], spoken(7), last=True).stable == 19
    assert len(ear.batches) == 3


def test_a_failure_ends_those_that_were_decoded_and_no_others() -> None:
    ear = Ear()

    def fail() -> None:
        raise RuntimeError("the graph failed")

    ear.before = fail
    buffered = Buffered(ear, clock=Clock())
    heard = buffered.step(
        [Job(buffered.begin(), spoken(1, 2), False), Job(buffered.begin(), spoken(3), False)]
    )
    assert isinstance(heard[0], RuntimeError)
    assert heard[1] == Heard([], 0)


def test_utterances_that_were_let_go_do_not_slow_the_others() -> None:
    clock = Clock()
    buffered = Buffered(Ear(), clock=clock)
    kept = [buffered.begin() for _ in range(3)]
    for _ in range(50):
        buffered.begin()
    assert len(buffered._open) == len(kept)


@pytest.mark.parametrize("given", [{"interval_ms": 0}, {"agreement": 1}, {"agreement": -1}])
def test_settings_that_cannot_be(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="buffered"):
        Buffered(Ear(), **given)  # type: ignore[arg-type]
