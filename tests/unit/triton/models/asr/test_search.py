"""Greedy and beam search over decoders that are tables: what is written, what is fed, and who leaves the batch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.asr.search import Floats, Ints, Rules, Written, beam_search, greedy, log_softmax

END, SIZE, HEADS, FRAMES = 0, 6, 2, 4
NOTHING: Ints = np.zeros(0, np.int64)
RULES = Rules(frozenset({END}), NOTHING, NOTHING)


class Table:
    """A decoder whose logits are a function of the row's own history; attention tells what was fed last."""

    def __init__(self, scores: NDArray[np.float64], rows: int) -> None:
        """scores [rows, SIZE, SIZE]: of the next token by the last one."""
        self.scores = scores
        self.rows = list(range(rows))
        self.fed: list[list[int]] = [[] for _ in range(rows)]
        self.sizes: list[int] = []

    def step(self, ids: Ints) -> tuple[Floats, Floats | None]:
        assert len(ids) == len(self.rows)
        self.sizes.append(len(ids))
        for mine, more in zip(self.fed, ids.tolist(), strict=True):
            mine += more
        logits = np.stack([self.scores[row, mine[-1]] for row, mine in zip(self.rows, self.fed, strict=True)])
        seen = np.zeros((len(ids), HEADS, ids.shape[1], FRAMES), np.float32)
        seen[:, :, -1, 0] = ids[:, -1:]
        return logits.astype(np.float32), seen

    def keep(self, rows: Ints) -> None:
        self.rows = [self.rows[at] for at in rows]
        self.fed = [list(self.fed[at]) for at in rows]


def chain(*tokens: int) -> NDArray[np.float64]:
    """Scores by which these follow each other."""
    scores = np.zeros((SIZE, SIZE))
    for before, after in itertools.pairwise(tokens):
        scores[before, after] = 5.0
    return scores


def prompts(rows: int) -> Ints:
    return np.full((rows, 1), 1, np.int64)


def test_greedy_writes_until_the_end_and_no_further() -> None:
    table = Table(np.stack([chain(1, 2, 3, END), chain(1, 4, END), chain(1, END)]), 3)
    written = greedy(table, prompts(3), [9, 9, 9], RULES)
    assert [one.tokens for one in written] == [[2, 3], [4], []]
    assert [[int(seen[0, 0]) for seen in one.attention] for one in written] == [[1, 2, 3], [1, 4], [1]]


def test_rows_that_ended_leave_and_the_others_keep_their_history() -> None:
    table = Table(np.stack([chain(1, END), chain(1, 2, 3, 4, 5, 2), chain(1, END), chain(1, 3, END)]), 4)
    written = greedy(table, prompts(4), [9, 7, 9, 9], RULES)
    assert [one.tokens for one in written] == [[], [2, 3, 4, 5, 2, 3, 4], [], [3]]
    assert table.sizes[:3] == [4, 2, 1]
    assert table.fed == [[1, 2, 3, 4, 5, 2, 3]]


def test_one_ended_row_of_many_stays_until_others_end_too() -> None:
    """Leaving costs a copy of what all the others remember."""
    table = Table(np.stack([chain(1, END), *[chain(1, 2, 3, END)] * 7]), 8)
    assert [len(one.tokens) for one in greedy(table, prompts(8), [9] * 8, RULES)] == [0, *[2] * 7]
    assert table.sizes == [8, 8, 8]


def test_who_repeats_itself_is_stopped() -> None:
    table = Table(np.stack([chain(1, 2, 3, 2), chain(1, 2, 3, 2)]), 2)
    assert [len(one.tokens) for one in greedy(table, prompts(2), [4, 40], RULES)] == [4, 40]
    table = Table(np.stack([chain(1, 2, 3, 2)]), 1)
    assert greedy(table, prompts(1), [0], RULES) == [Written([], [])]
    assert not table.sizes


def test_suppressed_tokens_are_never_written_and_others_not_at_first() -> None:
    scores = np.zeros((SIZE, SIZE))
    scores[:, 2], scores[:, 3], scores[:, 4] = 9.0, 8.0, 7.0
    rules = Rules(frozenset({END}), np.array([2]), np.array([3, END]))
    assert greedy(Table(scores[None], 1), prompts(1), [3], rules)[0].tokens == [4, 3, 3]
    assert beam_search(Table(scores[None], 1), prompts(1), [3], rules, 2)[0].tokens[0] == 4


def exhaustive(scores: NDArray[np.float64], limit: int, penalty: float) -> list[int]:
    """The best of all texts by their mean log-probability."""
    logs = log_softmax(scores.astype(np.float32))
    best: tuple[float, list[int]] = (-math.inf, [])
    for length in range(1, limit + 1):
        for tokens in itertools.product(range(SIZE), repeat=length):
            if END in tokens[:-1] or (tokens[-1] != END and length < limit):
                continue
            steps = zip((1, *tokens), tokens, strict=False)
            score = sum(float(logs[before, after]) for before, after in steps) / length**penalty
            best = max(best, (score, list(tokens)))
    return [token for token in best[1] if token != END]


@pytest.mark.parametrize("seed", range(6))
def test_beams_as_wide_as_there_are_texts_find_the_best_one(seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 2, (1, SIZE, SIZE))
    rules = Rules(frozenset({END}), NOTHING, NOTHING, length_penalty=0.0)
    found = beam_search(Table(scores, 1), prompts(1), [4], rules, 64)[0]
    assert found.tokens == exhaustive(scores[0], 4, 0.0)


def test_beams_find_what_greedy_misses_and_keep_their_own_histories() -> None:
    """2 is likelier at first, but after 3 the rest is certain."""
    scores = np.full((SIZE, SIZE), -20.0)
    scores[1, 2], scores[1, 3] = math.log(0.55), math.log(0.45)
    scores[2, [2, 3, 4, 5]] = math.log(0.25)
    scores[3, 4] = scores[4, 5] = scores[5, END] = 0.0
    both = np.stack([scores, chain(1, 5, END)])
    assert greedy(Table(both, 2), prompts(2), [6, 6], RULES)[0].tokens[0] == 2
    table = Table(both, 2)
    written = beam_search(table, prompts(2), [6, 6], RULES, 2)
    assert [one.tokens for one in written] == [[3, 4, 5], [5]]
    assert [int(seen[0, 0]) for seen in written[0].attention] == [1, 3, 4, 5]


def test_an_utterance_says_the_same_alone_and_among_others_with_beams() -> None:
    scores = np.random.default_rng(3).normal(0, 2, (5, SIZE, SIZE))
    limits = [7, 3, 0, 9, 5]
    together = beam_search(Table(scores, 5), prompts(5), limits, RULES, 3)
    for at, limit in enumerate(limits):
        alone = beam_search(Table(scores[at : at + 1], 1), prompts(1), [limit], RULES, 3)[0]
        assert together[at].tokens == alone.tokens
        assert len(alone.tokens) <= limit
