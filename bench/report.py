"""Results as tables (Markdown, aligned for a terminal) and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.stats import summarise

SAMPLE_COLUMNS = ("measured", "goal", "samples", "failed", "min", "p50", "p95", "max")


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class Part:
    """What one measurement found."""

    name: str
    title: str
    about: str
    """How it was measured, in a few sentences."""
    tables: list[Table] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """Sentences under the tables."""
    data: dict[str, Any] = field(default_factory=dict)
    """Raw samples and counts, for the JSON report."""
    seconds: float = 0.0
    """How long it took."""
    failed: list[str] = field(default_factory=list)
    """What of it could not be measured, with the reason."""


def number(value: float, digits: int = 0) -> str:
    if math.isnan(value):
        return "–"
    return "never" if math.isinf(value) else f"{value:.{digits}f}"


def verdict(goal: str, met: bool) -> str:
    return f"{goal}: {'met' if met else 'MISSED'}"


def row(
    name: str, samples: Iterable[float], *, p50: float | None = None, p95: float | None = None
) -> list[str]:
    """One line of a table with SAMPLE_COLUMNS; p50 and p95 are goals: the most they may be."""
    found = summarise(samples)
    goals = []
    if p50 is not None:
        goals.append(verdict(f"p50 ≤ {p50:g}", found.p50 <= p50))
    if p95 is not None:
        goals.append(verdict(f"p95 ≤ {p95:g}", found.p95 <= p95))
    values = (found.least, found.p50, found.p95, found.most)
    return [name, ", ".join(goals), str(found.count), str(found.failed), *map(number, values)]


def markdown(table: Table) -> str:
    cells = [list(table.columns), *[list(line) for line in table.rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(table.columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
             for line in cells]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def part_text(part: Part) -> str:
    blocks = [f"## {part.title}", part.about, *map(markdown, part.tables)]
    if part.findings:
        blocks.append("\n".join(f"- {finding}" for finding in part.findings))
    return "\n\n".join(blocks) + "\n"


def machine_text(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    load = " ".join(f"{value:g}" for value in machine["load_before"])
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {machine['system']}; "
        f"load before the run {load}. Date: {machine['date']}. Versions: {packages}.\n\n"
        f"Command: `{machine['command']}`\n"
    )


def as_json(machine: dict[str, Any], parts: Sequence[Part]) -> str:
    found = {
        "machine": machine,
        "parts": {
            part.name: {
                "title": part.title,
                "about": part.about,
                "seconds": round(part.seconds, 1),
                "tables": [
                    {"columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in part.tables
                ],
                "findings": part.findings,
                "data": part.data,
            }
            for part in parts
        },
    }
    return json.dumps(_finite(found), indent=1, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no infinity: a sample that never came is null."""
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
