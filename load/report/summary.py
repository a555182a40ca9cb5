"""summary.json: what a run found, as figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from load.report.data import Floats, Run, failures
from load.report.figures import Slope, known, percentile, slope, spread
from load.report.levels import (
    LATE_MS,
    Level,
    cpu_s,
    figures,
    levels,
    limit,
    session_minutes,
    share,
    steady,
    voice_to_voice,
)

MOST_LATE_SEND_MS = 5.0
MOST_CORE_B = 0.85
MOST_FAILED = 0.01
MOST_LATE_FRAMES = 0.01
MOST_BACKLOG_MS = 200.0
NOISY = 0.10
"""Other programs' share of a core from which on a run is called disturbed."""
ENOUGH_SESSIONS = 8
"""The first session fills pools that are for all: with fewer, memory per session says nothing."""
LONG_ENOUGH_S = 120.0
"""Slopes of anything shorter say nothing."""


def summarise(run: Run) -> dict[str, Any]:
    """Everything the page shows as a number. Infinite: never; nan: not known; both null in the file."""
    part = steady(run)
    found = [figures(run, level) for level in levels(run)]
    names = {name: spread(series.ms) for name, series in sorted(run.samples.items())}
    _, v2v = voice_to_voice(run)
    if len(v2v):
        names["voice_to_voice"] = spread(v2v)
    distinct = {level["sessions"] for level in found}
    summary: dict[str, Any] = {
        **{
            key: run.facts.get(key)
            for key in ("scenario", "command", "machine", "cores", "settings", "profile")
        },
        "sessions": part.sessions if part else 0,
        "seconds": float(run.seconds[-1]) if len(run.seconds) else math.nan,
        "steady": {"from_s": part.begin, "to_s": part.end} if part else None,
        "samples": names,
        "turns": _turns(run),
        "calls": _calls(run),
        "failures": [
            {"sample": name, "why": why, "count": count} for (name, why), count in failures(run).most_common()
        ],
        "gateway": _gateway(run, part),
        "frames": _frames(run, part),
        "overhead_ms": _overhead(run),
        "generator": _generator(run, part),
        "levels": found,
        # what ended a ramp is what it saw itself; of other runs with several levels we judge
        "limit": run.facts.get("ramp") or (limit(found) if len(distinct) > 1 else None),
        "slopes": _slopes(run, part),
        "parts": run.facts.get("parts"),
    }
    summary["void"] = void(summary, run.facts)
    summary["disturbed"] = _disturbed(summary["generator"])
    summary["checks"] = checks(summary)
    return summary


def _turns(run: Run) -> dict[str, Any]:
    turns, early = run.of("turn"), run.of("early_end")
    failed = sum(map(bool, turns.why))
    return {
        "n": len(turns),
        "failed": failed,
        "failed_share": share(failed, len(turns)),
        "ended_early_share": share(float(early.ms[np.isfinite(early.ms)].sum()), len(early)),
    }


def _calls(run: Run) -> dict[str, Any]:
    """Sessions that ended, and how many began each second."""
    ended, begun = run.of("session"), run.of("connect")
    failed = sum(map(bool, ended.why))
    began = known(begun.ms)
    span = float(np.ptp(begun.t_s)) if len(begun) else 0.0
    return {
        "n": len(ended),
        "fine": len(ended) - failed,
        "failed_share": share(failed, len(ended)),
        "begun": len(began),
        "begun_per_s": share(len(began), span),
    }


def _gateway(run: Run, part: Level | None) -> dict[str, Any] | None:
    rss = run.level("gateway_rss_mb")
    if part is None or not np.isfinite(rss).any():
        return None
    times = run.seconds
    inside = (times >= part.begin) & (times <= part.end)
    before = run.facts.get("rss_before_mb")
    during = float(np.nanmedian(rss[inside]))
    minutes = session_minutes(run, part)
    backlog = known(run.level("vad_backlog_ms")[inside])
    return {
        "cpu_cores": cpu_s(run, part) / (part.end - part.begin) if part.end > part.begin else math.nan,
        "cpu_s_per_session_minute": cpu_s(run, part) / minutes if minutes else math.nan,
        "rss_before_mb": before,
        "rss_mb": during,
        "rss_most_mb": float(np.nanmax(rss)),
        "memory_per_session_mb": (during - before) / part.sessions
        if before and part.sessions >= ENOUGH_SESSIONS
        else math.nan,
        "vad_backlog_ms": spread(backlog),
        "tasks": percentile(known(run.level("tasks")[inside]), 0.5),
    }


def _frames(run: Run, part: Level | None) -> dict[str, Any]:
    late = run.frames_late_ms
    if not len(late):
        counted, behind = run.of("frames").ms, run.of("frames_late").ms
        n, late_n = float(counted[np.isfinite(counted)].sum()), float(behind[np.isfinite(behind)].sum())
        return {"n": n, "late": late_n, "late_share": share(late_n, n), "jitter_p99_ms": math.nan}
    if part is not None:
        late = late[(run.frames_t >= part.begin) & (run.frames_t <= part.end)]
    return {
        "n": len(late),
        "late": int((late > LATE_MS).sum()),
        "late_share": share(int((late > LATE_MS).sum()), len(late)),
        "jitter_p99_ms": percentile(late, 0.99),
    }


def parts_sum_ms(run: Run) -> float:
    """What the emulated parts take between the end of a turn and the first audio; nan unless all are constant."""
    profile = run.facts.get("profile") or {}
    try:
        values = (
            profile["asr"]["final_ms"], profile["llm"]["first_sentence_ms"], profile["tts"]["first_chunk_ms"],
        )  # fmt: skip
    except (KeyError, TypeError):
        return math.nan
    return float(sum(values)) if all(isinstance(value, int | float) for value in values) else math.nan


def _overhead(run: Run) -> dict[str, Any] | None:
    """Of the gateway, over what the parts take."""
    parts = parts_sum_ms(run)
    ms = run.of("stop_to_first_audio").ms
    return None if math.isnan(parts) or not len(ms) else {"parts_ms": parts, **spread(ms - parts)}


def _generator(run: Run, part: Level | None) -> dict[str, Any]:
    if part is None:
        return {}
    inside = (run.seconds >= part.begin) & (run.seconds <= part.end)
    ours = [run.level(name)[inside] for name in ("callers_cpu", "emulators_cpu", "locust_cpu")]
    used = np.nansum(ours, axis=0) if inside.any() else np.empty(0)
    return {
        # the worst second but one in twenty: a hiccup of the machine is no generator that cannot keep up
        "send_late_p99_ms": percentile(known(run.level("send_late_p99_ms")[inside]), 0.95),
        "callers_cores": _mean(ours[0]),
        "emulators_cores": _mean(ours[1]),
        "locust_cores": _mean(ours[2]),
        "core_b": _mean(used),
        "core_a_other": _mean(run.level("core_a_other")[inside]),
        "core_b_other": _mean(run.level("core_b_other")[inside]),
    }


def void(summary: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Why the figures do not speak of the gateway, as sentences; empty: they do."""
    reasons = []
    generator = summary["generator"]
    late, used = generator.get("send_late_p99_ms", math.nan), generator.get("core_b", math.nan)
    if late > MOST_LATE_SEND_MS:
        reasons.append(
            f"The callers sent late: {late:.1f} ms at the 99th percentile, {MOST_LATE_SEND_MS:g} may be."
        )
    if used > MOST_CORE_B and facts.get("cores", {}).get("pinned"):
        reasons.append(f"Callers and emulators used {used:.0%} of their core, {MOST_CORE_B:.0%} may be.")
    if not summary["turns"]["n"] and not summary["calls"]["fine"]:
        most = summary["failures"][:1]
        why = f": {most[0]['sample']} failed {most[0]['count']} times ({most[0]['why']})" if most else ""
        reasons.append(f"No turn came to an end{why}.")
    if facts.get("broken"):
        reasons.append(str(facts["broken"]))
    return reasons


def _disturbed(generator: dict[str, Any]) -> str:
    """One sentence when other programs ran beside; else empty."""
    used = [
        f"{share:.0%} of the {whose} core"
        for whose, key in (("gateway's", "core_a_other"), ("callers'", "core_b_other"))
        if (share := generator.get(key, math.nan)) > NOISY
    ]
    return f"Other programs used {' and '.join(used)} meanwhile: latencies are upper bounds." if used else ""


def checks(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What a good run holds: name, the value as text, what it may be, whether it is."""
    found: list[dict[str, Any]] = []

    def check(name: str, value: float, text: str, may: str, ok: bool) -> None:
        if not math.isnan(value):
            found.append({"name": name, "value": text, "may_be": may, "ok": bool(ok)})

    failed = summary["turns"]["failed_share"]
    check("turns failed", failed, f"{failed:.2%}", f"≤ {MOST_FAILED:.0%}", failed <= MOST_FAILED)
    lost = summary["calls"]["failed_share"]
    check("calls failed", lost, f"{lost:.2%}", f"≤ {MOST_FAILED:.0%}", lost <= MOST_FAILED)
    late = summary["frames"]["late_share"]
    check(
        f"frames over {LATE_MS:g} ms late",
        late,
        f"{late:.2%}",
        f"≤ {MOST_LATE_FRAMES:.0%}",
        late <= MOST_LATE_FRAMES,
    )
    stale = summary["samples"].get("stale_frames")
    if stale is not None:
        check("stale frames after a flush", stale["max"], f"{stale['max']:g} at most", "0", stale["max"] == 0)
    if summary["gateway"]:
        backlog = summary["gateway"]["vad_backlog_ms"]["p95"]
        check(
            "detector's backlog, p95",
            backlog,
            f"{backlog:.0f} ms",
            f"≤ {MOST_BACKLOG_MS:g} ms",
            backlog <= MOST_BACKLOG_MS,
        )
    for name, found_slope in (summary["slopes"] or {}).items():
        low, high = found_slope["low"], found_slope["high"]
        check(
            f"slope of {found_slope['what']}", low, f"{found_slope['per_hour']:+.2f} {found_slope['unit']}/h",
            "0 within noise, or falling" if name == "rss" else "0 within noise", low <= 0 and (name == "rss" or high >= 0),
        )  # fmt: skip
    return found


def _slopes(run: Run, part: Level | None) -> dict[str, Any] | None:
    if part is None or part.end - part.begin < LONG_ENOUGH_S:
        return None
    inside = (run.seconds >= part.begin) & (run.seconds <= part.end)
    hours = run.seconds[inside] / 3600
    found = {
        "rss": _slope(slope(hours, run.level("gateway_rss_mb")[inside]), "memory", "MB"),
        "tasks": _slope(slope(hours, run.level("tasks")[inside]), "tasks", "tasks"),
    }
    return {name: value for name, value in found.items() if value} or None


def _slope(found: Slope | None, what: str, unit: str) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "what": what, "unit": unit, "per_hour": found.per_x, "low": found.low, "high": found.high,
        "at_0": found.at_0, "within_noise": found.within_noise,
    }  # fmt: skip


def _mean(values: Floats) -> float:
    there = known(values)
    return float(there.mean()) if len(there) else math.nan


def write(summary: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(_finite(summary), indent=1, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor nan: null."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
