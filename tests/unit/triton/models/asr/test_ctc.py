"""CTC decoding against every path there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gateway.triton.models.asr.ctc import Floats, Labels, beam_search, collapse, greedy, words_of
from gateway.triton.models.asr.engine import Word
from gateway.triton.models.pieces import Pieces

BLANK = 0


def log_probs(frames: int, labels: int, seed: int, sharpness: float = 1.0) -> Floats:
    logits = sharpness * np.random.default_rng(seed).standard_normal((frames, labels))
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), dtype=np.float32)


def likeliest(probs: Floats) -> tuple[int, ...]:
    """By the sum over all paths."""
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        labelling = tuple(collapse(np.array(path), BLANK).tokens)
        chance = float(np.exp(sum(probs[frame, label] for frame, label in enumerate(path))))
        totals[labelling] = totals.get(labelling, 0.0) + chance
    return max(totals, key=lambda one: totals[one])


def test_repetitions_and_blanks_go() -> None:
    path = np.array([0, 3, 3, 0, 3, 5, 5, 5, 0, 0])
    assert collapse(path, 0) == Labels([3, 3, 5], [1, 4, 5], [3, 5, 8])
    assert collapse(path[:0], 0) == Labels([], [], [])
    assert collapse(np.array([7]), 0) == Labels([7], [0], [1])
    assert collapse(np.array([0, 0]), 0) == Labels([], [], [])


def test_greedy_ignores_what_is_behind_the_frames() -> None:
    probs = np.stack([log_probs(6, 4, 1), log_probs(6, 4, 2)])
    alone = greedy(probs[1:, :3], np.array([3]), BLANK)
    assert greedy(probs, np.array([6, 3]), BLANK)[1] == alone[0]
    assert greedy(probs, np.array([0, 0]), BLANK) == [Labels([], [], [])] * 2


@pytest.mark.parametrize("seed", range(25))
def test_a_wide_beam_finds_the_likeliest_labelling(seed: int) -> None:
    probs = log_probs(5, 3, seed)
    found = beam_search(probs[None], np.array([5]), BLANK, 64)[0]
    assert tuple(found.tokens) == likeliest(probs)


def test_a_beam_finds_what_greedy_does_not() -> None:
    """Two paths of a label together outweigh the one of blanks."""
    probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]], dtype=np.float32))
    assert greedy(probs[None], np.array([2]), BLANK)[0].tokens == []
    assert beam_search(probs[None], np.array([2]), BLANK, 4)[0].tokens == [1]


@pytest.mark.parametrize("beam", [1, 4])
def test_where_one_label_is_certain_a_beam_says_what_greedy_says(beam: int) -> None:
    probs = np.stack([log_probs(40, 12, seed, sharpness=30.0) for seed in range(3)])
    frames = np.array([40, 17, 0])
    assert [one.tokens for one in beam_search(probs, frames, BLANK, beam)] == [
        one.tokens for one in greedy(probs, frames, BLANK)
    ]
    searched, simple = (
        decode[0] for decode in (beam_search(probs, frames, BLANK, beam), greedy(probs, frames, BLANK))
    )
    assert searched.frames == simple.frames


def test_words_have_the_times_of_their_frames() -> None:
    pieces = Pieces({"kind": "sentencepiece", "pieces": ["", "▁he", "llo", "▁you"], "special": [0]})
    labels = Labels([1, 2, 3], [2, 5, 9], [3, 7, 10])
    assert words_of(pieces, labels, 80.0) == [Word("hello", 160, 560), Word("you", 720, 800)]
