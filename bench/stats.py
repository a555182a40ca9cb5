"""Percentiles from raw samples. What failed counts as infinitely late, never as absent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FAILED = math.inf
"""A sample that never came."""


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that `share` (0…1) of all samples do not exceed; nan of none.

    No interpolation: every percentile is a value that was measured, or FAILED.
    """
    if not samples:
        return math.nan
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of samples in one unit."""

    count: int
    failed: int
    least: float
    p50: float
    p95: float
    most: float


def summarise(samples: Iterable[float]) -> Summary:
    values = list(samples)
    known = [value for value in values if math.isfinite(value)]
    return Summary(
        count=len(values),
        failed=len(values) - len(known),
        least=min(values, default=math.nan),
        p50=percentile(values, 0.5),
        p95=percentile(values, 0.95),
        most=max(values, default=math.nan),
    )
