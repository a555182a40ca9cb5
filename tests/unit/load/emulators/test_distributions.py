"""Latencies as distributions, and that a seed repeats them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from load.emulators.distributions import BadProfile, Distribution, Draws, distribution

LOGNORMAL = {"lognormal": {"median": 40, "p95": 90}}


def drawn(raw: object, seed: int = 1, name: str = "x", count: int = 4_000) -> list[float]:
    figure, draws = distribution(raw, "x", Path()), Draws(seed)
    return [draws.ms(name, figure) for _ in range(count)]


def test_a_number_is_itself_every_time() -> None:
    assert set(drawn(126)) == {126.0}


def test_a_lognormal_has_the_median_and_the_p95_it_was_given() -> None:
    values = drawn(LOGNORMAL)
    assert np.percentile(values, 50) == pytest.approx(40, rel=0.05)
    assert np.percentile(values, 95) == pytest.approx(90, rel=0.08)
    assert min(values) > 0


def test_a_csv_gives_its_own_values_and_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text("turn,ms\n1,40.5\n2,\n3,70\n4,1e2\n")
    figure = distribution({"csv": "measured.csv", "column": "ms"}, "x", tmp_path)
    draws = Draws(1)
    assert {draws.ms("x", figure) for _ in range(200)} == {40.5, 70.0, 100.0}


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert drawn(LOGNORMAL, 1) == drawn(LOGNORMAL, 1)
    assert drawn(LOGNORMAL, 1) != drawn(LOGNORMAL, 2)


def test_one_figure_does_not_change_what_another_draws() -> None:
    figure, draws = distribution(LOGNORMAL, "x", Path()), Draws(1)
    mixed = []
    for _ in range(10):
        draws.ms("other", figure)
        mixed.append(draws.ms("x", figure))
    assert mixed == drawn(LOGNORMAL, count=10)
    assert mixed != drawn(LOGNORMAL, name="other", count=10)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (-1, "at least 0"),
        (float("nan"), "at least 0"),
        (True, "write a number"),
        ("fast", "write a number"),
        ({"lognormal": {"median": 40}}, "median and p95"),
        ({"lognormal": {"median": 90, "p95": 40}}, "0 < median <= p95"),
        ({"lognormal": {"median": 0, "p95": 40}}, "0 < median <= p95"),
        ({"csv": "nowhere.csv", "column": "ms"}, "cannot be read"),
        ({"csv": "bad.csv", "column": "s"}, "no column s"),
        ({"csv": "bad.csv", "column": "ms"}, "line 2 is 'soon'"),
        ({"csv": "empty.csv", "column": "ms"}, "no value"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused_by_name(tmp_path: Path, raw: object, words: str) -> None:
    (tmp_path / "bad.csv").write_text("ms\nsoon\n")
    (tmp_path / "empty.csv").write_text("ms\n")
    with pytest.raises(BadProfile, match=r"^asr\.final_ms") as caught:
        distribution(raw, "asr.final_ms", tmp_path)
    assert words in str(caught.value)


def test_a_distribution_passes_through() -> None:
    figure = Distribution(constant=3)
    assert distribution(figure, "x", Path()) is figure
