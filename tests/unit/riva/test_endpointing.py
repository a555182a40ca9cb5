"""Riva's endpointing parameters over speech probabilities."""

from __future__ import annotations

import pytest

from gateway.riva.endpointing import WINDOW_MS, Endpointer, Endpointing, Turn

STARTED, ENDING, ENDED = Turn.STARTED, Turn.ENDING, Turn.ENDED


def turns(endpointer: Endpointer, *runs: tuple[float, int]) -> list[tuple[Turn, int]]:
    """(probability, windows) runs; what was decided, and in which window from the start."""
    decided = []
    at = 0
    for probability, windows in runs:
        for _ in range(windows):
            turn = endpointer.push(probability)
            if turn is not None:
                decided.append((turn, at))
            at += 1
    return decided


def windows(ms: int) -> int:
    return -(-ms // WINDOW_MS)


def test_an_utterance_starts_with_a_fifth_of_200_ms_and_ends_with_800_ms_of_silence() -> None:
    decided = turns(Endpointer(Endpointing()), (0.0, 10), (0.9, 20), (0.0, 40))
    assert decided == [(STARTED, 11), (ENDED, 29 + windows(800))]


def test_a_click_does_not_start_an_utterance() -> None:
    assert turns(Endpointer(Endpointing()), (0.9, 1), (0.0, 50)) == []


def test_799_ms_of_silence_are_a_pause() -> None:
    short = windows(800) - 1
    assert turns(Endpointer(Endpointing()), (0.9, 5), (0.0, short), (0.9, 5), (0.0, short)) == [(STARTED, 1)]


def test_the_next_utterance_starts_afresh() -> None:
    decided = turns(Endpointer(Endpointing(stop_history=64)), (0.9, 4), (0.0, 3), (0.9, 4), (0.0, 3))
    assert [turn for turn, _ in decided] == [STARTED, ENDED, STARTED, ENDED]


def test_two_pass_end_announces_once_and_again_after_more_speech() -> None:
    endpointer = Endpointer(Endpointing(stop_history=320, stop_history_eou=96))
    decided = turns(endpointer, (0.9, 5), (0.0, 5), (0.9, 2), (0.0, 20))
    assert decided == [(STARTED, 1), (ENDING, 7), (ENDING, 14), (ENDED, 21)]


def test_a_lower_stop_threshold_forgives_a_blip_of_speech() -> None:
    runs = [(0.9, 10), (0.0, 12), (0.9, 1), (0.0, 12)]
    assert [t for t, _ in turns(Endpointer(Endpointing(stop_threshold=0.9)), *runs)] == [STARTED, ENDED]
    assert [t for t, _ in turns(Endpointer(Endpointing()), *runs)] == [STARTED]


@pytest.mark.parametrize(("threshold", "expected"), [(0.2, 1), (1.0, 6)])
def test_start_threshold_is_the_share_of_the_window(threshold: float, expected: int) -> None:
    endpointer = Endpointer(Endpointing(start_threshold=threshold))
    assert turns(endpointer, (0.9, 12))[0] == (STARTED, expected)


def test_reset_forgets_the_utterance() -> None:
    endpointer = Endpointer(Endpointing())
    turns(endpointer, (0.9, 5))
    endpointer.reset()
    assert not endpointer.speaking
    assert turns(endpointer, (0.0, 40)) == []
