"""Two runs beside each other: ratios, and whether a change is for the better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from load.report.svg import escape
from load.report.words import TIMES, milliseconds, number, percent

Show = Callable[[float], str]
NOISE = 0.05
"""A ratio nearer to 1 than this is called unchanged."""


Row = tuple[str, float, float, Show]
"""(what, before, now, how to show it); smaller is better in all of them."""


def times(new: dict[str, Any], old: dict[str, Any], share: str) -> list[Row]:
    """Of every sample both runs have."""
    return [
        (title, old["samples"][name][share], new["samples"][name][share], milliseconds)
        for name, title, _ in TIMES
        if name in new["samples"] and name in old["samples"]
    ]


def others(new: dict[str, Any], old: dict[str, Any]) -> list[Row]:
    """Cost, failures, frames; what one of them does not know is left out."""
    found: list[Row] = []

    def add(what: str, path: str, show: Show) -> None:
        before, now = _at(old, path), _at(new, path)
        if not (math.isnan(before) or math.isnan(now)):
            found.append((what, before, now, show))

    add("CPU seconds per session-minute", "gateway.cpu_s_per_session_minute", _three)
    add("Memory per session, MB", "gateway.memory_per_session_mb", _three)
    add("Overhead over the parts, p50", "overhead_ms.p50", milliseconds)
    add("Overhead over the parts, p95", "overhead_ms.p95", milliseconds)
    add("Turns failed", "turns.failed_share", percent)
    add("Turns ended early", "turns.ended_early_share", percent)
    add("Frames late", "frames.late_share", percent)
    add("Frame jitter, p99", "frames.jitter_p99_ms", milliseconds)
    add("Detector's backlog, p95", "gateway.vad_backlog_ms.p95", milliseconds)
    return found


def _at(summary: dict[str, Any], path: str) -> float:
    value: Any = summary
    for key in path.split("."):
        value = (value or {}).get(key)
    return math.nan if value is None else float(value)


def ratio(before: float, now: float) -> float:
    """1 when both are the same, 0 and infinite values included; nan when one is not known."""
    if math.isnan(before) or math.isnan(now):
        return math.nan
    if before == now:
        return 1.0
    if before == 0 or math.isinf(now):
        return math.inf
    return 0.0 if math.isinf(before) else now / before


def word(change: float) -> str:
    """better, worse, or nothing."""
    if math.isnan(change) or abs(change - 1) <= NOISE:
        return ""
    return "better" if change < 1 else "worse"


def tables(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Latencies by p50 and p95, everything else beside them."""
    head = "<th>{}</th><th>now</th><th>×</th>"
    pairs = zip(times(new, old, "p50"), times(new, old, "p95"), strict=True)
    latencies = [f"<tr><td>{escape(p50[0])}</td>{_cells(p50)}{_cells(p95)}</tr>" for p50, p95 in pairs]
    costs = [f"<tr><td>{escape(row[0])}</td>{_cells(row)}</tr>" for row in others(new, old)]
    return (
        '<div class="versus">'
        + _table("<th>latency</th>" + head.format("p50 before") + head.format("p95 before"), latencies)
        + _table("<th>figure</th>" + head.format("before"), costs)
        + "</div>"
    )


def _table(head: str, rows: list[str]) -> str:
    return (
        f'<div class="scroll"><table class="tight"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(row: Row) -> str:
    _, before, now, show = row
    change = ratio(before, now)
    return f'<td class="soft">{escape(show(before))}</td><td>{escape(show(now))}</td><td class="{word(change)}">{_times(change)}</td>'


def _times(change: float) -> str:
    if math.isnan(change):
        return "–"
    return "∞" if math.isinf(change) else f"{change:.2f}"


def _three(value: float) -> str:
    return number(value, 3)
