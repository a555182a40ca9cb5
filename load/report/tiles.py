"""The key figures at the top of the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from load.report import compare
from load.report.svg import escape
from load.report.words import milliseconds, number, percent

_STORM = 4
"""Calls for each place from which on their beginning is what a run is about."""


def tiles(summary: dict[str, Any], old: dict[str, Any] | None) -> str:
    """What a person looks at first; with `old`, what it was."""
    samples, before = summary["samples"], (old or {}).get("samples", {})
    gateway, gateway_before = summary["gateway"] or {}, (old or {}).get("gateway") or {}
    made: list[str] = []

    def tile(title: str, value: float | None, show: Any, under: str, was: float | None) -> None:
        if value is None or math.isnan(value):
            return
        change = ""
        if was is not None and not math.isnan(was):
            ratio = compare.ratio(was, value)
            change = f'<em class="was {compare.word(ratio)}">was {escape(show(was))}</em>'
        made.append(
            f'<div class="tile"><span>{escape(title)}</span><strong>{escape(show(value))}</strong>'
            f"<em>{escape(under)}</em>{change}</div>"
        )

    if summary["limit"] and summary["levels"]:
        _limit_tiles(summary, old, tile)
        return f'<div class="tiles">{"".join(made)}</div>'
    for name, title in (("voice_to_voice", "Voice to voice, p50"), ("barge_in", "Barge-in, p50")):
        if name in samples:
            found, was = samples[name], before.get(name, {})
            tile(title, found["p50"], milliseconds, f"p95 {milliseconds(found['p95'])}", was.get("p50"))
    calls, calls_before = summary["calls"], (old or {}).get("calls", {})
    if calls["begun"] >= _STORM * max(1, summary["sessions"]):
        connect, was = samples["connect"], before.get("connect", {})
        tile(
            "New calls a second",
            calls["begun_per_s"],
            lambda v: number(v, 1),
            f"{calls['begun']} in all",
            None,
        )
        tile(
            "Connect, p50",
            connect["p50"],
            milliseconds,
            f"p95 {milliseconds(connect['p95'])}",
            was.get("p50"),
        )
        tile(
            "Calls failed", calls["failed_share"], percent, f"{calls['n'] - calls['fine']} of {calls['n']}",
            calls_before.get("failed_share"),
        )  # fmt: skip
    overhead = summary["overhead_ms"]
    if overhead:
        tile(
            "Over the parts' sum, p50", overhead["p50"], milliseconds,
            f"parts {milliseconds(overhead['parts_ms'])}", ((old or {}).get("overhead_ms") or {}).get("p50"),
        )  # fmt: skip
    turns, frames = summary["turns"], summary["frames"]
    tile(
        "Turns failed", turns["failed_share"], percent, f"{turns['failed']} of {turns['n']}",
        old["turns"]["failed_share"] if old else None,
    )  # fmt: skip
    tile(
        "CPU per session-minute", gateway.get("cpu_s_per_session_minute"), lambda v: number(v, 2, "s"),
        f"{number(gateway.get('cpu_cores'))} cores in all", gateway_before.get("cpu_s_per_session_minute"),
    )  # fmt: skip
    tile(
        "Memory per session", gateway.get("memory_per_session_mb"), lambda v: number(v, 2, "MB"),
        f"{number(gateway.get('rss_mb'), 0, 'MB')} in all", gateway_before.get("memory_per_session_mb"),
    )  # fmt: skip
    tile(
        "Frames late", frames["late_share"], percent, f"jitter p99 {milliseconds(frames['jitter_p99_ms'])}",
        old["frames"]["late_share"] if old else None,
    )  # fmt: skip
    tile(
        "Turns ended early", turns["ended_early_share"], percent, "while the caller still spoke",
        old["turns"]["ended_early_share"] if old else None,
    )  # fmt: skip
    return f'<div class="tiles">{"".join(made)}</div>'


def _limit_tiles(summary: dict[str, Any], old: dict[str, Any] | None, tile: Callable[..., None]) -> None:
    """Of a run with several levels: the last one that held."""
    held = held_level(summary)
    was = held_level(old) if old and old["limit"] and old["levels"] else {}
    first = summary["levels"][0]
    at = f"at {people(held['sessions'])}"

    def whole(value: float) -> str:
        return f"{value:,.0f}".replace(",", " ")

    tile("Sessions that held", summary["limit"]["held"] or 0, whole, _tried(summary["levels"]), None)
    for share in ("p50", "p95"):
        tile(
            f"Voice to voice, {share}", held[f"voice_to_voice_{share}"], milliseconds,
            f"{at}; {milliseconds(first[f'voice_to_voice_{share}'])} at {first['sessions']}",
            was.get(f"voice_to_voice_{share}"),
        )  # fmt: skip
    tile(
        "CPU per session-minute", held["cpu_s_per_session_minute"], lambda v: number(v, 2, "s"),
        f"{at}; {number(held['cpu_cores'])} cores", was.get("cpu_s_per_session_minute"),
    )  # fmt: skip
    tile("Turns failed", held["failed_share"], percent, f"{at}, of {held['turns']}", was.get("failed_share"))
    tile("Frames late", held["frames_late_share"], percent, at, was.get("frames_late_share"))


def held_level(summary: dict[str, Any]) -> dict[str, Any]:
    levels: list[dict[str, Any]] = summary["levels"]
    held = [level for level in levels if level["sessions"] <= (summary["limit"]["held"] or 0)]
    return max(held, key=lambda level: int(level["sessions"]), default=levels[0])


def _tried(levels: list[dict[str, Any]]) -> str:
    return f"of {max(level['sessions'] for level in levels)} tried"


def people(sessions: float) -> str:
    return "1 session" if sessions == 1 else f"{sessions:,} sessions".replace(",", " ")
