"""Latencies as distributions: a constant, a lognormal, or values that were measured."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_Z95 = 1.6448536269514722
"""The normal quantile of 95 %."""


class BadProfile(ValueError):
    """A profile that cannot be used. `str()` says which field and what to write instead."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where a figure comes from, drawn anew for every request. Exactly one of the three is used."""

    constant: float = 0.0
    lognormal: tuple[float, float] | None = None
    """(median, p95)."""
    values: tuple[float, ...] = ()
    """Measured ones, each as likely as any other."""

    def draw(self, source: random.Random) -> float:
        """One value, at least 0. A constant takes nothing out of `source`."""
        if self.values:
            return source.choice(self.values)
        if self.lognormal is None:
            return self.constant
        median, p95 = self.lognormal
        return median * math.exp(math.log(p95 / median) / _Z95 * source.gauss(0.0, 1.0))


def distribution(raw: object, field: str, folder: Path) -> Distribution:
    """`raw` as a profile has it: 40, {lognormal: {median: 40, p95: 90}} or {csv: FILE, column: NAME}.

    field: named in errors. folder: relative CSV paths start here. Raises: BadProfile.
    """
    if isinstance(raw, Distribution):
        return raw
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return Distribution(constant=_amount(raw, field))
    if isinstance(raw, Mapping) and set(raw) == {"lognormal"} and isinstance(raw["lognormal"], Mapping):
        shape = raw["lognormal"]
        if set(shape) == {"median", "p95"}:
            median, p95 = (_amount(shape[key], f"{field}.lognormal.{key}") for key in ("median", "p95"))
            if 0 < median <= p95:
                return Distribution(lognormal=(median, p95))
        raise BadProfile(f"{field}.lognormal needs median and p95, with 0 < median <= p95")
    if isinstance(raw, Mapping) and set(raw) == {"csv", "column"}:
        return Distribution(values=_column(folder / str(raw["csv"]), str(raw["column"]), field))
    raise BadProfile(
        f"{field} is {raw!r}: write a number, {{lognormal: {{median: M, p95: P}}}} or {{csv: FILE, column: NAME}}"
    )


def _amount(raw: object, field: str) -> float:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw) and raw >= 0:
        return float(raw)
    raise BadProfile(f"{field} is {raw!r}: write a number of at least 0")


def _column(path: Path, column: str, field: str) -> tuple[float, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if column not in (rows.fieldnames or ()):
                raise BadProfile(f"{field}: {path} has no column {column}")
            cells = [(rows.line_num, row[column]) for row in rows if row[column] not in ("", None)]
    except OSError as error:
        raise BadProfile(f"{field}: {path} cannot be read: {error.strerror}") from None
    values = []
    for line, cell in cells:
        try:
            values.append(_amount(float(cell), f"{field}: {path} line {line}"))
        except ValueError as error:
            if isinstance(error, BadProfile):
                raise
            raise BadProfile(f"{field}: {path} line {line} is {cell!r}, which is no number") from None
    if not values:
        raise BadProfile(f"{field}: {path} has no value in column {column}")
    return tuple(values)


class Draws:
    """Repeatable draws: every figure has a source of its own, seeded by its name and one number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sources: dict[str, random.Random] = {}

    def ms(self, name: str, figure: Distribution) -> float:
        """The next value of the figure called `name`; others do not change what it will be."""
        if not figure.values and figure.lognormal is None:
            return figure.constant
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = random.Random(f"{self._seed}:{name}")
        return figure.draw(source)
