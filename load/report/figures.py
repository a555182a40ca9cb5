"""Percentiles with failures counted, and straight lines with confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from load.report.data import Floats

BLOCKS = 20
"""A slope is fitted to this many means: what is next to each other in time is not independent."""


def percentile(values: Floats | Sequence[float], share: float) -> float:
    """The smallest value that `share` (0…1) of all do not exceed: one that was measured, infinite if failed;
    nan of none."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered):
        return math.nan
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def known(values: Floats) -> Floats:
    """Those that are numbers."""
    kept: Floats = values[np.isfinite(values)]
    return kept


def spread(values: Floats) -> dict[str, Any]:
    """As it goes into summary.json."""
    return {
        "n": len(values),
        "failures": int(np.isinf(values).sum()),
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": float(values.max()) if len(values) else math.nan,
    }


@dataclass(frozen=True, slots=True)
class Slope:
    """Of a least-squares line, per unit of x, with the bounds of its 95 % confidence."""

    per_x: float
    low: float
    high: float
    at_0: float

    @property
    def within_noise(self) -> bool:
        return self.low <= 0 <= self.high


def slope(x: Floats, y: Floats, blocks: int = BLOCKS) -> Slope | None:
    """Through the means of up to `blocks` stretches; None of fewer than four points."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 4:
        return None
    if len(x) > blocks:
        x = np.array([part.mean() for part in np.array_split(x, blocks)])
        y = np.array([part.mean() for part in np.array_split(y, blocks)])
    away = x - x.mean()
    square = float((away**2).sum())
    if square == 0:
        return None
    per_x = float((away * (y - y.mean())).sum()) / square
    at_0 = float(y.mean() - per_x * x.mean())
    left = y - (at_0 + per_x * x)
    error = math.sqrt(float((left**2).sum()) / (len(x) - 2) / square)
    half = student_t(0.975, len(x) - 2) * error
    return Slope(per_x, per_x - half, per_x + half, at_0)


def student_t(share: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion around the normal one; within 1 % from 3 degrees of freedom on."""
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) * math.sqrt(2 / (4 * share * (1 - share)))
    z = NormalDist().inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )
