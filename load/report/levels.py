"""Stretches of a run with one number of sessions, and what each of them showed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from load.report.data import Floats, Run
from load.report.figures import known, percentile

SETTLE_S = 3.0
"""Left out at the start of a level: sessions that have just come say nothing yet."""
SHORTEST_S = 5.0
LATE_MS = 20.0
"""A frame this far behind its schedule is late: the next one is due."""
LIMIT_FAILED = 0.01
LIMIT_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Level:
    sessions: int
    begin: float
    end: float
    """s since the run's epoch."""


def levels(run: Run) -> list[Level]:
    """Stretches in which the number of sessions stayed within 5 % (at least one), in the order of time."""
    found: list[Level] = []
    times, counts = run.seconds, run.level("sessions")
    start = 0
    for k in range(1, len(times) + 1):
        if k < len(times) and abs(counts[k] - counts[start]) <= max(1.0, 0.05 * counts[start]):
            continue
        count = float(np.median(counts[start:k]))
        if count >= 1 and times[k - 1] - times[start] >= SETTLE_S + SHORTEST_S:
            found.append(Level(round(count), float(times[start]) + SETTLE_S, float(times[k - 1])))
        start = k
    return found


def steady(run: Run) -> Level | None:
    """From when nine in ten of the sessions were there (and had settled) until they began to leave."""
    times, counts = run.seconds, run.level("sessions")
    if not len(times) or not np.isfinite(counts).any() or np.nanmax(counts) < 1:
        return None
    most = float(np.nanmax(counts))
    there = np.flatnonzero(counts >= 0.9 * most)
    begin, end = float(times[there[0]]), float(times[there[-1]])
    if end - begin >= SETTLE_S + SHORTEST_S:
        begin += SETTLE_S
    inside = (times >= begin) & (times <= end)
    return Level(round(float(np.nanmedian(counts[inside]))), begin, end)


def voice_to_voice(run: Run) -> tuple[Floats, Floats]:
    """(t_s, ms) of every turn; a turn that failed before any reply audio counts as infinitely late."""
    heard, turns = run.of("voice_to_voice"), run.of("turn")
    last: dict[tuple[str, str], list[float]] = {}
    for caller, turn, t in zip(heard.caller, heard.turn, heard.t_s, strict=True):
        last.setdefault((caller, turn), []).append(float(t))
    missing = []
    for k, why in enumerate(turns.why):
        t = float(turns.t_s[k])
        heard_at = last.get((turns.caller[k], turns.turn[k]), ())
        # the same number may come again after a caller came back: it must be of this turn
        if why and not any(0 <= t - at < 120 for at in heard_at):
            missing.append(t)
    return (
        np.concatenate([heard.t_s, np.array(missing)]),
        np.concatenate([heard.ms, np.full(len(missing), np.inf)]),
    )


def cpu_s(run: Run, level: Level, column: str = "gateway_cpu") -> float:
    """CPU seconds used in it; nan when it is not known."""
    times, cores = run.seconds, run.level(column)
    inside = (times > level.begin) & (times <= level.end)
    steps = np.diff(times, prepend=times[0] if len(times) else 0.0)
    return float((cores * steps)[inside].sum()) if inside.any() else math.nan


def session_minutes(run: Run, level: Level) -> float:
    times, counts = run.seconds, run.level("sessions")
    inside = (times > level.begin) & (times <= level.end)
    steps = np.diff(times, prepend=times[0] if len(times) else 0.0)
    return float((counts * steps)[inside].sum()) / 60


def figures(run: Run, level: Level) -> dict[str, Any]:
    """Of one level, as it goes into summary.json."""
    t, ms = voice_to_voice(run)
    ms = ms[(t >= level.begin) & (t <= level.end)]
    turns = run.of("turn").between(level.begin, level.end)
    late = run.frames_late_ms[(run.frames_t >= level.begin) & (run.frames_t <= level.end)]
    inside = (run.seconds >= level.begin) & (run.seconds <= level.end)
    used, minutes = cpu_s(run, level), session_minutes(run, level)
    return {
        "sessions": level.sessions,
        "from_s": level.begin,
        "to_s": level.end,
        "turns": len(turns),
        "failed_share": share(sum(map(bool, turns.why)), len(turns)),
        "voice_to_voice_p50": percentile(ms, 0.5),
        "voice_to_voice_p95": percentile(ms, 0.95),
        "cpu_cores": used / (level.end - level.begin) if level.end > level.begin else math.nan,
        "cpu_s_per_session_minute": used / minutes if minutes else math.nan,
        "frames_late_share": share(int((late > LATE_MS).sum()), len(late)),
        "vad_backlog_ms_p95": percentile(known(run.level("vad_backlog_ms")[inside]), 0.95),
        "send_late_p99_ms": percentile(known(run.level("send_late_p99_ms")[inside]), 0.95),
    }


def limit(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The most sessions that held: p95 voice to voice ≤ 1.5 × that of the first level, ≤ 1 % failed turns."""
    if len(found) < 2:
        return None
    first = found[0]["voice_to_voice_p95"]
    held = None
    for level in found:
        broken = []
        if not level["voice_to_voice_p95"] <= LIMIT_RATIO * first:
            broken.append(f"p95 voice to voice over {LIMIT_RATIO:g} × that at {found[0]['sessions']}")
        if level["failed_share"] > LIMIT_FAILED:
            broken.append(f"over {LIMIT_FAILED:.0%} failed turns")
        if broken:
            return {"held": held, "broke_at": level["sessions"], "why": " and ".join(broken)}
        held = level["sessions"]
    return {"held": held, "broke_at": None, "why": ""}


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
