"""Dynamic time warping in anti-diagonals against its plain definition, and the times of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.asr.alignment import (
    audible_ms,
    smoothed,
    spread_times,
    token_frames,
    token_times,
    warped,
    without_pauses,
)  # fmt: skip


def cheapest(cost: NDArray[np.float64]) -> float:
    """Of all paths, cell by cell."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            before = min(total[row - 1, column - 1], total[row - 1, column], total[row, column - 1])
            total[row, column] = cost[row - 1, column - 1] + before
    return float(total[-1, -1])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (7, 1), (4, 11), (12, 5), (20, 60)])
def test_the_path_is_the_cheapest_and_takes_single_steps(rows: int, columns: int) -> None:
    cost = np.random.default_rng(rows * columns).normal(size=(rows, columns))
    down, across = warped(cost)
    assert (down[0], across[0], down[-1], across[-1]) == (0, 0, rows - 1, columns - 1)
    steps = set(zip(np.diff(down).tolist(), np.diff(across).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[down, across].sum() == pytest.approx(cheapest(cost), abs=1e-4)


def test_the_median_mirrors_the_ends_and_leaves_short_rows() -> None:
    values = np.array([[9.0, 1.0, 2.0, 8.0, 3.0]])
    assert smoothed(values, 3).tolist() == [[1.0, 2.0, 2.0, 3.0, 8.0]]
    assert smoothed(values[:, :1], 3) is not None
    assert smoothed(values[:, :1], 3).tolist() == [[9.0]]


def test_tokens_begin_where_their_attention_does() -> None:
    attention = np.full((2, 3, 60), 0.001)
    for token, start in enumerate((0, 20, 45)):
        attention[:, token, start : start + 12] = 0.08
    first = token_frames(attention, 7)
    assert np.abs(first - np.array([0, 20, 45])).max() <= 8
    assert first[0] == 0
    assert token_frames(attention[:, :0], 7).tolist() == []
    assert token_frames(attention[:, :1], 7).tolist() == [0]  # no deviation over the tokens: not a number


def test_a_token_lasts_until_the_next_and_the_last_until_the_sound_ends() -> None:
    first = np.array([0, 10, 25])
    assert token_times(first, 3, 0.02, 900) == [(0, 200), (200, 500), (500, 900)]
    # The last token of a text that was cut short was never fed: it has no frame of its own.
    assert token_times(first, 4, 0.02, 900) == [(0, 200), (200, 500), (500, 500), (500, 900)]
    assert token_times(first[:1], 1, 0.02, -5) == [(0, 0)]
    assert token_times(first[:0], 0, 0.02, 900) == []


def test_without_attention_tokens_share_the_time_by_their_size() -> None:
    assert spread_times([2, 6, 0], 100, 1000) == [(100, 300), (300, 900), (900, 1000)]
    assert spread_times([], 100, 1000) == []


def test_where_sound_begins_and_ends() -> None:
    audio = np.zeros(16_000, np.float32)
    assert audible_ms(audio) == (0, 1000)
    audio[4_800:9_600] = 0.3
    assert audible_ms(audio) == (300, 600)
    assert audible_ms(audio[:100]) == (0, 6)


def test_pauses_belong_to_no_word() -> None:
    audio = np.zeros(16_000, np.float32)
    audio[3_200:6_400] = audio[9_600:12_800] = 0.5  # 200 to 400 ms, and 600 to 800
    assert without_pauses([(0, 500), (500, 1000)], audio) == [(200, 400), (600, 800)]
    assert without_pauses([(250, 300), (300, 650)], audio) == [(250, 300), (300, 650)]
    # Whoever is said where nothing is heard stays where it is; times never cross.
    assert without_pauses([(0, 100), (100, 100), (100, 390)], audio) == [(0, 100), (100, 100), (200, 390)]
    assert without_pauses([(0, 30)], audio[:100]) == [(0, 30)]
    assert without_pauses([], audio) == []
    hum = np.full(16_000, 0.1, np.float32)
    assert without_pauses([(0, 500), (500, 1000)], hum) == [(0, 500), (500, 1000)]
