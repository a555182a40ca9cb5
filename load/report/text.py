"""The summary as a person reads it in a terminal."""

from __future__ import annotations

from typing import Any

from load.report.page import verdict
from load.report.words import TIMES, milliseconds, number, percent


def text(summary: dict[str, Any]) -> str:
    _, word, sentence = verdict(summary)
    lines = [f"{summary['scenario']['name']}, {summary['sessions']} at once: {word}", f"  {sentence}"]
    if summary["disturbed"]:
        lines.append(f"  {summary['disturbed']}")
    lines += ["", *_columns([("", "n", "failed", "p50", "p95", "p99"), *_times(summary["samples"])]), ""]
    gateway = summary["gateway"]
    if gateway:
        lines.append(
            f"gateway: {number(gateway['cpu_s_per_session_minute'], 3)} CPU s per session-minute, "
            f"{number(gateway['cpu_cores'])} cores, {number(gateway['memory_per_session_mb'])} MB a session, "
            f"backlog p95 {milliseconds(gateway['vad_backlog_ms']['p95'])}"
        )
    frames, generator = summary["frames"], summary["generator"]
    lines.append(
        f"frames: {frames['n']:,.0f}, {percent(frames['late_share'])} late, jitter p99 {milliseconds(frames['jitter_p99_ms'])}"
    )
    if summary["overhead_ms"]:
        lines.append(
            f"over the parts' {summary['overhead_ms']['parts_ms']:g} ms: p50 {milliseconds(summary['overhead_ms']['p50'])}, "
            f"p95 {milliseconds(summary['overhead_ms']['p95'])}"
        )
    if generator:
        lines.append(
            f"callers: {milliseconds(generator['send_late_p99_ms'])} late at p99; their core "
            f"{percent(generator['core_b'])} used (callers {number(generator['callers_cores'])}, "
            f"parts {number(generator['emulators_cores'])}, locust {number(generator['locust_cores'])})"
        )
    for failure in summary["failures"][:6]:
        lines.append(f"failed: {failure['sample']}, {failure['why']}, {failure['count']} times")
    if len({level["sessions"] for level in summary["levels"]}) > 1:
        lines += [
            "",
            *_columns(
                [
                    ("sessions", "turns", "failed", "v2v p50", "v2v p95", "cores", "CPU s/min"),
                    *_levels(summary),
                ]
            ),
        ]
    return "\n".join(lines)


def _times(samples: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            title,
            str(found["n"]),
            str(found["failures"]),
            *(milliseconds(found[share]) for share in ("p50", "p95", "p99")),
        )
        for name, title, _ in TIMES
        if (found := samples.get(name))
    ]


def _levels(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(level["sessions"]), str(level["turns"]), percent(level["failed_share"]),
            milliseconds(level["voice_to_voice_p50"]), milliseconds(level["voice_to_voice_p95"]),
            number(level["cpu_cores"]), number(level["cpu_s_per_session_minute"], 3),
        )
        for level in summary["levels"]
    ]  # fmt: skip


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
