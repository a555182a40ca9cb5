"""How a text and its tokens are cut for Kokoro."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.tts.kokoro import Kokoro, parts, pieces
from gateway.triton.models.tts.piper import NoiseInput, TooLong, at_first, enough

STOP, COMMA, SPACE = 4, 3, 16
BREAKS = [frozenset({STOP}), frozenset({COMMA}), frozenset({SPACE})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello there.", ["Hello there."]),
        ("Hello there, my friends. How are you all doing today, and what is the news?", ["Hello there, my friends.", "How are you all doing today, and what is the news?"]),
        ("After a long while, nobody remembered what the long argument had been about at all", ["After a long while,", "nobody remembered what the long argument had been about at all"]),
        ("no mark is in this text at all which is longer than the first piece may be", ["no mark is in this text at all which is longer than the first piece may be"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_the_first_clause_goes_by_itself_where_it_is_short(text: str, said: list[str]) -> None:
    assert list(pieces(text)) == said


def _parts(inner: list[int], most: int) -> list[list[int]]:
    return [part.tolist() for part in parts(np.array([0, *inner, 0], np.int64), most, BREAKS)]


def test_what_fits_stays_whole() -> None:
    assert _parts([50] * 8, 10) == [[0, *[50] * 8, 0]]


def test_tokens_are_cut_at_the_best_break_of_the_second_half() -> None:
    inner = [50, STOP, 50, 50, 50, SPACE, COMMA, 50, SPACE, 50, 50, 50]
    assert _parts(inner, 12) == [[0, *inner[:7], 0], [0, *inner[7:], 0]]
    inner[6] = 50
    assert _parts(inner, 12) == [[0, *inner[:9], 0], [0, *inner[9:], 0]]


def test_tokens_without_a_break_are_cut_all_the_same_and_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 9, 10, 11, 100, 1000):
        inner = rng.choice([50, 51, 52, SPACE], size).tolist()
        for most in (3, 10, 64):
            made = _parts(inner, most)
            assert all(2 < len(part) <= most and part[0] == part[-1] == 0 for part in made)
            assert [token for part in made for token in part[1:-1]] == inner


@pytest.mark.parametrize(("speed", "length"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_a_graph_of_whole_speeds_speaks_at_any(
    speed: float, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its audio is stretched; the graph itself is always asked for speed 1."""
    told = np.sin(np.arange(24_000) / 20).astype(np.float32)
    engine = Kokoro.__new__(Kokoro)
    engine.rate, engine._most, engine._breaks, engine._whole_speeds = 24_000, 512, BREAKS, True
    monkeypatch.setattr(engine, "_part", lambda *_: told, raising=False)
    made = np.concatenate(list(engine._stream(np.array([0, 50, 0], np.int64), "af", speed, 0)))
    assert abs(len(made) / len(told) - length) < 0.05


def test_what_is_longer_than_one_call_may_say_is_cut_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token of some texts is as long as it can be; the noise's range, and with it a profile, stays sane."""
    engine = Kokoro.__new__(Kokoro)
    engine.rate, engine._most, engine._breaks, engine._whole_speeds = 24_000, 512, BREAKS, False
    said: list[int] = []

    def part(ids: NDArray[np.int64], *_: object) -> NDArray[np.float32]:
        if len(ids) > 100:
            raise TooLong("too long")
        said.extend(ids[1:-1].tolist())
        return np.full(len(ids) - 2, 0.1, np.float32)

    monkeypatch.setattr(engine, "_part", part, raising=False)
    inner = np.random.default_rng(0).choice([50, 51, 52, SPACE], 400)
    made = np.concatenate(list(engine._stream(np.array([0, *inner, 0], np.int64), "af", 1.0, 0)))
    assert said == inner.tolist()
    assert len(made) == 400
    monkeypatch.setattr(engine, "_part", lambda *_: (_ for _ in ()).throw(TooLong("too long")), raising=False)
    with pytest.raises(TooLong):
        list(engine._stream(np.array([0, 50, 51, 0], np.int64), "af", 1.0, 0))


def test_noise_is_never_given_beyond_its_range() -> None:
    noise = [NoiseInput("noise_0", "noise_0_size", False, 18_400.0, 25_920_000)]
    assert at_first(noise, 120) == [int(1.5 * 18_400 * 120) + 1]
    assert at_first(noise, 1024) == [25_920_000]
    assert enough([10], [25_920_000], noise) == [25_920_000]
    with pytest.raises(TooLong, match="at most 25920000 are given"):
        enough([10], [25_920_001], noise)
