"""When each token was said: its cross attention, warped onto the time of the audio.

As OpenAI's Whisper does it (`timing.py`): each head's attention is normalised over the tokens, smoothed by a median
over the frames, averaged over the heads; dynamic time warping then finds the path through tokens and frames with the
most attention. A token begins where the path reaches it. A token's row is that of the step which wrote it;
transformers (`_extract_token_timestamps`, 5.23) takes the row of the step that it was fed in, which is the next
token's: of published Moonshine weights that is 0.3 s late, and this 0.04 s off (docs/reference/exported-models.md).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
DIAGONAL, UP, LEFT = 0, 1, 2
WINDOW, WINDOW_MS = 320, 20
"""Samples at 16 kHz."""
AUDIBLE = 0.05
"""Of the loudest window's level: less is the silence behind the last word."""


def token_frames(attention: Floats, median: int) -> Ints:
    """attention [heads, rows, frames], frames >= 1: of tokens, and of their end -> the first frame of each [rows]."""
    if not attention.shape[1]:
        return np.zeros(0, np.int64)
    weights = attention.astype(np.float64)
    spread = weights.std(axis=1, keepdims=True)
    weights = (weights - weights.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    tokens, frames = warped(-smoothed(weights, median).mean(axis=0))
    first = np.concatenate([[True], np.diff(tokens) > 0])
    return np.asarray(frames[first], np.int64)


def smoothed(values: Floats, width: int) -> Floats:
    """Running median of odd `width` along the last axis, the ends mirrored; nothing where that is too short."""
    half = width // 2
    if half < 1 or values.shape[-1] <= half:
        return values
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=-1)
    return np.partition(windows, half, axis=-1)[..., half]


def warped(cost: Floats) -> tuple[Ints, Ints]:
    """The cheapest path through [rows, columns] from the first corner to the last, one step down, right or both at a
    time: its rows and columns. One anti-diagonal after the other, so that numpy does the work."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf, np.float32)
    came = np.full((rows + 1, columns + 1), -1, np.int8)
    total[0, 0] = 0.0
    came[0, :], came[:, 0] = LEFT, UP
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        both, up, left = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        step = np.where((both < up) & (both < left), DIAGONAL, np.where((up < both) & (up < left), UP, LEFT))
        best = np.choose(step, (both, up, left))
        total[row, column] = cost[row - 1, column - 1] + best
        came[row, column] = step
    path = []
    row_at, column_at = rows, columns
    while row_at > 0 or column_at > 0:
        path.append((row_at - 1, column_at - 1))
        step_back = came[row_at, column_at]
        row_at -= step_back != LEFT
        column_at -= step_back != UP
    there = np.array(path[::-1], np.int64)
    return there[:, 0], there[:, 1]


def token_times(first: Ints, count: int, frame_s: float, end_ms: int) -> list[tuple[int, int]]:
    """(start ms, end ms) of `count` tokens from the first frames of all of them, perhaps of their end too; a token
    lasts until the next begins, the last one until end_ms."""
    starts = [round(frame * frame_s * 1000) for frame in first.tolist()][:count]
    starts += [starts[-1] if starts else 0] * (count - len(starts))
    ends = [*starts[1:], max(end_ms, starts[-1])] if starts else []
    return list(zip(starts, ends, strict=True))


def spread_times(sizes: list[int], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Of graphs that tell no attention: each token has its share of the time by its size."""
    marks = np.concatenate([[0], np.cumsum(np.maximum(sizes, 1))]) if sizes else np.zeros(1)
    span = max(end_ms - start_ms, 0)
    points = [start_ms + round(span * float(mark) / max(float(marks[-1]), 1.0)) for mark in marks]
    return list(itertools.pairwise(points))


def audible_ms(audio: NDArray[np.float32]) -> tuple[int, int]:
    """Where sound begins and ends in audio [n], ms; all of it where nothing stands out."""
    loud = np.flatnonzero(audible(audio))
    whole = round(len(audio) / 16)
    if not len(loud):
        return 0, whole
    return int(loud[0]) * WINDOW_MS, min(whole, (int(loud[-1]) + 1) * WINDOW_MS)


def audible(audio: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of each whole window of audio [n], whether it stands out from silence."""
    count = len(audio) // WINDOW
    levels = np.sqrt(np.square(audio[: count * WINDOW].reshape(count, WINDOW)).mean(axis=1))
    return np.asarray(levels > AUDIBLE * levels.max(initial=0.0))


def without_pauses(times: list[tuple[int, int]], audio: NDArray[np.float32]) -> list[tuple[int, int]]:
    """(start ms, end ms) in order, each without the silence at its ends; who has nothing but silence keeps it."""
    loud = audible(audio)
    found = []
    for start, end in times:
        first = start // WINDOW_MS
        heard = np.flatnonzero(loud[first : -(-end // WINDOW_MS)])
        if len(heard):
            start = max(start, (first + int(heard[0])) * WINDOW_MS)
            end = max(start, min(end, (first + int(heard[-1]) + 1) * WINDOW_MS))
        found.append((start, end))
    return found
