"""The transducers' search by windows against the plain loop, frame by frame and one utterance at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph, State
from gateway.triton.models.asr.transducer import GreedySearch

BLANK = 4
DURATIONS = [0, 1, 2, 4]
Table = NDArray[np.int64]


class Decoder:
    """A graph whose tokens are looked up: by the frame's own number and how many tokens, and which last, were said.
    Its state is a hash of them, so that a lost, mixed up or stale state is heard at once."""

    spec = Graph(
        "decoder", (), (), states=(State("state_said", "new_said", (1,)),), start="START", max_batch=8
    )

    def __init__(self, table: Table, durations: Sequence[int]) -> None:
        self.table, self.durations = table, durations
        self.calls = 0

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        self.calls += 1
        said, token, start = feeds["state_said"][:, 0], feeds["TOKEN"], feeds["START"][:, 0] > 0.5
        assert ("DURATIONS" in outputs) == bool(self.durations)
        said = np.where(start, 0, np.where(token == BLANK, said, after(said, token)))
        numbers = feeds["ENCODED"][:, :, 0].astype(np.int64)
        found = np.array([[self.at(n, int(s)) for n in row] for row, s in zip(numbers, said, strict=True)])
        made = {"TOKENS": found[..., 0], "new_said": said[:, None].astype(np.float32)}
        return made | ({"DURATIONS": found[..., 1]} if self.durations else {})

    def at(self, frame: int, said: int) -> tuple[int, int]:
        value = int(self.table[(frame * 31 + said * 7) % len(self.table)])
        return min(value % 8, BLANK), value // 8 % max(1, len(self.durations))


def after(said: Any, token: Any) -> Any:
    return (said * 5 + token + 1) % 97


def plain(decoder: Decoder, frames: Sequence[int], max_symbols: int) -> tuple[list[int], list[int]]:
    tokens, begins, said, at, symbols = [], [], 0, 0, 0
    for _ in range(max(1, len(frames) * max_symbols - 1)):
        if at >= len(frames):
            break
        token, duration = decoder.at(frames[at], said)
        step = decoder.durations[duration] if decoder.durations else 0
        if token == BLANK:
            at, symbols = at + max(step, 1), 0
            continue
        tokens.append(token)
        begins.append(at)
        said, symbols, at = int(after(said, token)), symbols + 1, at + step
        if not decoder.durations and symbols >= max_symbols:
            at, symbols = at + 1, 0
    return tokens, begins


def search(decoder: Decoder, rows: Sequence[Sequence[int]], window: int, max_symbols: int) -> list[Any]:
    longest = max(map(len, rows), default=0)
    encoded = np.full((len(rows), max(longest, 1), 2), 10_000, np.float32)
    for at, row in enumerate(rows):
        encoded[at, : len(row), 0] = row
    found = GreedySearch(
        decoder, blank=BLANK, max_symbols=max_symbols, durations=decoder.durations, window=window
    )
    return found.run(encoded, np.array([len(row) for row in rows]))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    window=st.sampled_from([1, 2, 4, 64]),
    max_symbols=st.integers(1, 4),
    durations=st.sampled_from([[], DURATIONS]),
)
def test_equals_the_plain_loop(
    seed: int, lengths: list[int], window: int, max_symbols: int, durations: list[int]
) -> None:
    chance = np.random.default_rng(seed)
    decoder = Decoder(chance.integers(0, 64, 211), durations)
    rows = [chance.integers(0, 1000, length).tolist() for length in lengths]
    for row, labels in zip(rows, search(decoder, rows, window, max_symbols), strict=True):
        assert (labels.tokens, labels.frames) == plain(decoder, row, max_symbols)
        assert all(begin < end <= len(row) for begin, end in zip(labels.frames, labels.ends, strict=True))


def test_a_window_asks_about_once_a_token() -> None:
    table = np.full(211, BLANK)
    table[5::40] = 1
    decoder = Decoder(table, [])
    rows = [list(range(0, 120))]
    one = search(decoder, rows, 1, 3)
    calls, decoder.calls = decoder.calls, 0
    assert search(decoder, rows, 8, 3) == one
    assert 0 < len(one[0].tokens) < decoder.calls < calls / 3


def test_a_token_that_takes_no_time_ends_with_the_steps() -> None:
    """A TDT may say a token of no duration for ever."""
    decoder = Decoder(np.zeros(211, np.int64), [0])
    (labels,) = search(decoder, [[1, 2, 3]], 4, 5)
    assert len(labels.tokens) == 3 * 5 - 1


@pytest.mark.parametrize("given", [{"window": 0}, {"max_symbols": 0}])
def test_settings_that_cannot_be(given: dict[str, int]) -> None:
    told = {"window": 4, "max_symbols": 4} | given
    with pytest.raises(ValueError, match="at least 1"):
        GreedySearch(Decoder(np.zeros(1, np.int64), []), blank=BLANK, durations=[], **told)
