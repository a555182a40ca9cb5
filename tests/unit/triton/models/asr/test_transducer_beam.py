"""The transducers' beam search over tables: against all alignments of small lattices, and against greedy search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph, State
from gateway.triton.models.asr.transducer import GreedySearch
from gateway.triton.models.asr.transducer_beam import BeamSearch, Hypothesis, beam_of
from gateway.triton.models.exported import Folder

BLANK = 2
"""Behind two tokens."""
Table = NDArray[np.float32]
QUIET = 0
"""This frame says blank whatever was said."""


class Decoder:
    """A graph whose logits are looked up by the frame's number and all tokens before: a state that was lost, mixed up
    or heard a token twice speaks otherwise."""

    spec = Graph(
        "decoder", (), (), states=(State("state_said", "new_said", (1,)),), start="START", max_batch=5
    )

    def __init__(self, table: Table) -> None:
        """table [any, 3]"""
        self.table = table
        self.calls = 0

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        self.calls += 1
        assert 0 < len(feeds["TOKEN"]) <= self.spec.max_batch
        said, token = feeds["state_said"][:, 0].astype(np.int64), feeds["TOKEN"]
        said = np.where(feeds["START"][:, 0] > 0.5, 0, said)
        said = np.where(token == BLANK, said, after(said, token))
        numbers = feeds["ENCODED"][:, :, 0].astype(np.int64)
        logits = np.array(
            [[self.at(frame, int(s)) for frame in row] for row, s in zip(numbers, said, strict=True)]
        )
        made = {"TOKENS": logits.argmax(2), "LOGITS": logits, "new_said": said[:, None].astype(np.float32)}
        return {name: made[name] for name in outputs}

    def at(self, frame: int, said: int) -> Table:
        if frame == QUIET:
            return np.array([-9, -9, 9], np.float32)
        row: Table = self.table[(frame * 31 + said * 7) % len(self.table)]
        return row


def after(said: Any, token: Any) -> Any:
    return (said * 5 + token + 1) % 65_521


def alignments(decoder: Decoder, frames: Sequence[int], max_symbols: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every text, summed over each single alignment."""
    texts: dict[tuple[int, ...], float] = {}

    def walk(at: int, symbols: int, said: int, tokens: tuple[int, ...], score: float) -> None:
        if symbols == max_symbols:
            at, symbols = at + 1, 0
        if at == len(frames):
            texts[tokens] = float(np.logaddexp(texts.get(tokens, -np.inf), score))
            return
        logits = decoder.at(frames[at], said).astype(np.float64)
        logs = score + logits - np.logaddexp.reduce(logits)
        walk(at + 1, 0, said, tokens, logs[BLANK])
        for token in range(BLANK):
            walk(at, symbols + 1, int(after(said, token)), (*tokens, token), logs[token])

    walk(0, 0, 0, (), 0.0)
    return texts


def likeliest(texts: Mapping[tuple[int, ...], float]) -> tuple[int, ...]:
    return max(texts, key=lambda tokens: texts[tokens] / (len(tokens) + 1))


def encoded(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    made = np.full((len(rows), max([1, *map(len, rows)]), 2), 10_000, np.float32)
    for at, row in enumerate(rows):
        made[at, : len(row), 0] = row
    return made, np.array([len(row) for row in rows])


def search(
    decoder: Decoder, rows: Sequence[Sequence[int]], beam: int, max_symbols: int, window: int = 2
) -> list[Hypothesis]:
    found = BeamSearch(decoder, blank=BLANK, max_symbols=max_symbols, beam=beam, window=window)
    return found.best(*encoded(rows))


def lattice(*known: tuple[int, tuple[int, ...], tuple[float, float, float]]) -> Decoder:
    """Frame, what was said before, and the chances of both tokens and blank there."""
    table = np.zeros((211, 3), np.float32)
    for frame, before, chances in known:
        said = 0
        for token in before:
            said = after(said, token)
        table[(frame * 31 + said * 7) % 211] = np.log(chances)
    return Decoder(table)


def test_what_sounds_best_at_first_is_not_the_likeliest() -> None:
    decoder = lattice(
        (1, (), (0.40, 0.35, 0.25)),
        (2, (), (0.40, 0.30, 0.30)),
        (2, (0,), (0.34, 0.33, 0.33)),
        (2, (1,), (0.01, 0.01, 0.98)),
    )
    texts = alignments(decoder, [1, 2], 1)
    assert likeliest(texts) == (1,)
    assert np.exp(texts[1,]) == pytest.approx(0.35 * 0.98 + 0.25 * 0.30)
    (narrow,) = search(decoder, [[1, 2]], 1, 1)
    (wide,) = search(decoder, [[1, 2]], 4, 1)
    assert narrow.tokens == (0, 0)
    assert wide.tokens == (1,)
    assert wide.score == pytest.approx(texts[1,], abs=1e-5)


@pytest.mark.parametrize(("early", "frame"), [(0.15, 1), (0.60, 0)])
def test_of_several_ways_to_say_it_the_likeliest_has_its_times(early: float, frame: int) -> None:
    decoder = lattice(
        (1, (), (0.05, early, 0.95 - early)),
        (2, (), (0.05, 0.90, 0.05)),
        (2, (1,), (0.05, 0.05, 0.90)),
    )
    (found,) = search(decoder, [[1, 2]], 4, 1)
    assert (found.tokens, found.frames) == ((1,), (frame,))


def test_a_blank_as_likely_as_a_token_waits_as_in_greedy_search() -> None:
    decoder = Decoder(np.array([[1, 0, 1]], np.float32))
    assert search(decoder, [[1, 1]], 1, 2)[0].tokens == (0, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), frames=st.integers(0, 4), max_symbols=st.integers(1, 2))
def test_a_wide_beam_weighs_all_alignments(seed: int, frames: int, max_symbols: int) -> None:
    chance = np.random.default_rng(seed)
    decoder = Decoder(chance.normal(size=(211, 3)).astype(np.float32))
    row = chance.integers(1, 1000, frames).tolist()
    texts = alignments(decoder, row, max_symbols)
    (found,) = search(decoder, [row], 1000, max_symbols)
    assert found.tokens == likeliest(texts)
    assert found.score == pytest.approx(texts[found.tokens], abs=2e-3)
    (narrow,) = search(decoder, [row], 4, max_symbols)
    assert narrow.score <= texts[narrow.tokens] + 1e-5
    assert list(narrow.frames) == sorted(narrow.frames)


def test_a_small_beam_mostly_finds_what_greedy_search_misses() -> None:
    hits = {1: 0, 4: 0}
    for seed in range(40):
        chance = np.random.default_rng(seed)
        decoder = Decoder((chance.normal(size=(211, 3)) * 2).astype(np.float32))
        row = chance.integers(1, 1000, 4).tolist()
        best = likeliest(alignments(decoder, row, 2))
        for beam in hits:
            hits[beam] += search(decoder, [row], beam, 2)[0].tokens == best
    assert hits[4] > hits[1] + 8


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    max_symbols=st.integers(1, 4),
    window=st.sampled_from([1, 2, 64]),
)
def test_one_hypothesis_is_greedy_search(
    seed: int, lengths: list[int], max_symbols: int, window: int
) -> None:
    chance = np.random.default_rng(seed)
    decoder = Decoder(chance.normal(size=(211, 3)).astype(np.float32))
    # Greedy search may leave out the very last step: nothing is said there.
    rows = [[*chance.integers(1, 1000, length).tolist(), QUIET] for length in lengths]
    greedy = GreedySearch(decoder, blank=BLANK, max_symbols=max_symbols, durations=[], window=2)
    beam = BeamSearch(decoder, blank=BLANK, max_symbols=max_symbols, beam=1, window=window)
    assert beam.run(*encoded(rows)) == greedy.run(*encoded(rows))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    max_symbols=st.integers(1, 3),
    window=st.sampled_from([1, 3, 64]),
)
def test_a_batch_of_unequal_lengths_says_what_each_says_alone(
    seed: int, lengths: list[int], max_symbols: int, window: int
) -> None:
    chance = np.random.default_rng(seed)
    decoder = Decoder(chance.normal(size=(211, 3)).astype(np.float32))
    rows = [chance.integers(1, 1000, length).tolist() for length in lengths]
    together = search(decoder, rows, 3, max_symbols, window)
    alone = [search(decoder, [row], 3, max_symbols, 2)[0] for row in rows]
    assert [(one.tokens, one.frames, one.score) for one in together] == [
        (one.tokens, one.frames, one.score) for one in alone
    ]


def test_the_graph_is_asked_no_more_than_it_has_to_be() -> None:
    chatty = Decoder(np.tile(np.array([[1.0, 0.9, 0.0]], np.float32), (211, 1)))
    (found,) = search(chatty, [[1] * 10], 3, 4, window=1)
    assert len(found.tokens) <= 10 * 4
    assert chatty.calls <= 10 * 4
    silent = Decoder(np.zeros((1, 3), np.float32))
    assert search(silent, [[QUIET] * 64], 4, 4, window=8)[0].tokens == ()
    assert silent.calls == 64 / 8
    assert [one.tokens for one in search(silent, [[], []], 4, 4)] == [(), ()]
    assert silent.calls == 64 / 8


@pytest.mark.parametrize("given", [{"window": 0}, {"max_symbols": 0}, {"beam": 0}])
def test_settings_that_cannot_be(given: dict[str, int]) -> None:
    told = {"window": 4, "max_symbols": 4, "beam": 4} | given
    with pytest.raises(ValueError, match="at least 1"):
        BeamSearch(Decoder(np.zeros((1, 3), np.float32)), blank=BLANK, **told)


@pytest.mark.parametrize(
    ("said", "durations", "sentence"),
    [*((said, [], "1 to 8") for said in ("0", "9", "wide", "-1")), ("2", [0, 1, 2], "set it to 1")],
)
def test_a_beam_that_cannot_be(tmp_path: Path, said: str, durations: list[int], sentence: str) -> None:
    (tmp_path / "front.json").write_text(json.dumps({"beam": 3}))
    folder = Folder(tmp_path, {"parameters": {"beam": {"string_value": said}}})
    with pytest.raises(ValueError, match=sentence):
        beam_of(folder, durations)


def test_beam_comes_of_the_configuration_or_the_front(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text("{}")
    assert beam_of(Folder(tmp_path), [0, 1]) == 1
    (tmp_path / "front.json").write_text(json.dumps({"beam": 3}))
    assert beam_of(Folder(tmp_path), []) == 3
    assert beam_of(Folder(tmp_path, {"parameters": {"beam": {"string_value": "8"}}}), []) == 8
