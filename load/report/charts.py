"""The page's pictures. Each takes the run, and the one it is compared with (`old`), and is empty without data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from load.report.data import Floats, Run
from load.report.figures import percentile
from load.report.levels import LATE_MS, LIMIT_RATIO, voice_to_voice
from load.report.svg import Axis, Chart, Point, axis_to, card
from load.report.words import TIMES, milliseconds, percent

_CDF_POINTS = 80
_MOST_DOTS = 1_500
_MOST_POINTS = 240


def cdfs(run: Run, old: Run | None) -> list[str]:
    """One for every sample that is a time."""
    found = []
    for name, title, about in TIMES:
        new = _values(run, name)
        if len(new) >= 2 and np.isfinite(new).any():
            found.append(_cdf(title, about, new, _values(old, name) if old else np.empty(0)))
    return found


def _values(run: Run, name: str) -> Floats:
    return voice_to_voice(run)[1] if name == "voice_to_voice" else run.of(name).ms


def _cdf(title: str, about: str, new: Floats, old: Floats) -> str:
    known = np.concatenate([values[np.isfinite(values)] for values in (new, old)])
    top = min(float(known.max()), 1.6 * max(_most(new, 0.97), _most(old, 0.97), 1.0))
    low = float(known.min())
    start = 0.0 if low < 0.6 * top else low - 0.15 * (top - low)
    axis = axis_to(1.02 * top, "ms", low=max(0.0, math.floor(start / 10) * 10) if low >= 0 else low)
    chart = Chart(axis, Axis(0, 1, show=percent), height=200, width=380)
    if len(old):
        chart.line(_steps(old, axis.high), "old", "before")
    chart.line(_steps(new, axis.high), "c1", "now" if len(old) else "share of all")
    for value, text in ((percentile(new, 0.5), "p50"), (percentile(new, 0.95), "p95")):
        if math.isfinite(value):
            chart.dots([(value, 0.5 if text == "p50" else 0.95)], "c1", 4)
    failed = int(np.isinf(new).sum())
    numbers = " · ".join(
        f"{text} {milliseconds(percentile(new, share))}"
        for text, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    )
    under = f"{numbers} · n {len(new)}" + (f", {failed} failed" if failed else "")
    body = chart.svg(f"{title}: {under}") + f'<p class="numbers">{under}</p>'
    return card(title, about, body, [("c1", "now"), ("old", "before")] if len(old) else ())


def _most(values: Floats, share: float) -> float:
    known = values[np.isfinite(values)]
    return percentile(known, share) if len(known) else 0.0


def _steps(values: Floats, most: float) -> list[Point]:
    """Failures keep the curve below 100 %."""
    ordered = np.sort(values)
    picks = np.unique(np.linspace(0, len(ordered) - 1, min(_CDF_POINTS, len(ordered))).round().astype(int))
    return [(float(ordered[k]), (k + 1) / len(ordered)) for k in picks if ordered[k] <= most]


def turns_over_time(run: Run, band: tuple[float, float] | None) -> str:
    t, ms = voice_to_voice(run)
    if not len(t):
        return ""
    known = ms[np.isfinite(ms)]
    axis = axis_to(1.1 * (percentile(known, 0.995) if len(known) else 1.0), "ms")
    chart = Chart(axis_to(float(max(t.max(), run.seconds.max(initial=0))), "s into the run"), axis)
    if band:
        chart.band(*band, "steady part")
    picks = np.arange(len(t)) if len(t) <= _MOST_DOTS else np.linspace(0, len(t) - 1, _MOST_DOTS).astype(int)
    fine = [(float(t[k]), float(min(ms[k], axis.high))) for k in picks if math.isfinite(ms[k])]
    lost = [(float(at), axis.high) for at in t[np.isinf(ms)][:_MOST_DOTS]]
    chart.dots(fine, "c1 faint", 2.4)
    chart.dots(lost, "bad", 3)
    middle = _over(t, ms, 40)
    chart.line([(at, value) for at, value in middle if math.isfinite(value)], "ink", "median")
    legend = [("c1", "a turn"), ("ink", "running median")] + (
        [("bad", f"failed ({len(lost)})")] if lost else []
    )
    about = "True end of speech to the first reply audio, each turn"
    return card("Voice to voice over the run", about, chart.svg(about), legend)


def _over(t: Floats, values: Floats, parts: int) -> list[Point]:
    """Medians of stretches in the order of time."""
    order = np.argsort(t)
    return [
        (float(t[part].mean()), percentile(values[part], 0.5))
        for part in np.array_split(order, min(parts, max(1, len(order) // 4)))
        if len(part)
    ]


def over_time(
    run: Run,
    old: Run | None,
    title: str,
    about: str,
    columns: Sequence[tuple[str, str, str]],
    unit: str,
    *,
    band: tuple[float, float] | None = None,
    at_least: float = 0.0,
    from_zero: bool = True,
) -> str:
    """Columns of the timeline: (column, class, text). `old` is drawn for the first of them."""
    shown = [entry for entry in columns if np.isfinite(run.level(entry[0])).any()]
    if not shown:
        return ""
    lines = [(kind, text, _thin(run.seconds, run.level(column))) for column, kind, text in shown]
    if old is not None and np.isfinite(old.level(shown[0][0])).any():
        lines.insert(0, ("old", f"{shown[0][2]}, before", _thin(old.seconds, old.level(shown[0][0]))))
    values = [y for _, _, points in lines for _, y in points if math.isfinite(y)]
    low = 0.0 if from_zero else math.floor(0.95 * min(values) / 10) * 10
    last = max(points[-1][0] for _, _, points in lines)
    chart = Chart(axis_to(last, "s into the run"), axis_to(max(at_least, 1.05 * max(values)), unit, low=low))
    if band:
        chart.band(*band, "steady part")
    for kind, text, points in lines:
        chart.line(points, kind, text)
    return card(title, about, chart.svg(about), [(kind, text) for kind, text, _ in lines])


def _thin(t: Floats, values: Floats) -> list[Point]:
    """At most _MOST_POINTS, each the mean of its stretch."""
    parts = np.array_split(np.arange(len(t)), min(_MOST_POINTS, len(t)))
    return [
        (float(t[part].mean()), float(values[part].mean()) if np.isfinite(values[part]).any() else math.nan)
        for part in parts
    ]


def against_sessions(levels: list[dict[str, Any]], old: list[dict[str, Any]] | None) -> list[str]:
    """p95 voice to voice, and CPU, by number of sessions: of runs with several levels."""
    if len({level["sessions"] for level in levels}) < 2:
        return []
    both = [*levels, *(old or [])]
    x = axis_to(max(level["sessions"] for level in both), "sessions")
    legend = [("c1", "now"), ("old", "before")] if old else []
    tall = max((v for v in (level["voice_to_voice_p95"] for level in both) if math.isfinite(v)), default=1.0)
    limit = LIMIT_RATIO * levels[0]["voice_to_voice_p95"]
    latency = Chart(x, axis_to(1.1 * max(tall, limit if math.isfinite(limit) else 0), "ms"))
    if math.isfinite(limit):
        latency.across(limit, f"{LIMIT_RATIO:g} × that at {levels[0]['sessions']}")
    cpu = Chart(
        x,
        axis_to(
            max(1.0, *(level["cpu_cores"] for level in both if math.isfinite(level["cpu_cores"]))), "cores"
        ),
    )
    cpu.across(1.0, "one core")
    for entries, kind, text in ((old or [], "old", "before"), (levels, "c1", "p95"), (levels, "c3", "p50")):
        share = "p50" if text == "p50" else "p95"
        points = sorted((float(e["sessions"]), float(e[f"voice_to_voice_{share}"])) for e in entries)
        latency.line(points, kind, text, dots=True)
    for entries, kind, text in ((old or [], "old", "before"), (levels, "c1", "gateway")):
        cpu.line(
            sorted((float(e["sessions"]), float(e["cpu_cores"])) for e in entries), kind, text, dots=True
        )
    about = "Voice to voice at each number of sessions"
    shown = [("c1", "p95"), ("c3", "p50"), *([("old", "p95 before")] if old else [])]
    found = [card("Sessions against latency", about, latency.svg(about), shown)]
    if any(math.isfinite(level["cpu_cores"]) for level in levels):
        about = "All threads of the gateway, while that many sessions talked"
        found.append(card("Sessions against CPU", about, cpu.svg(about), legend))
    return found


def lateness(run: Run, old: Run | None) -> str:
    """Share of frames later than x: a straight look at the tail."""
    new = run.frames_late_ms
    if len(new) < 20:
        return ""
    before = old.frames_late_ms if old else np.empty(0)
    top = max(
        25.0, min(200.0, 1.2 * max(percentile(new, 0.9999), percentile(before, 0.9999) if len(before) else 0))
    )
    chart = Chart(axis_to(top, "ms behind the schedule"), Axis(1e-5, 1, log=True, show=_small_share))
    if len(before):
        chart.line(_tail(before, chart.x.high), "old", "before")
    chart.line(_tail(new, chart.x.high), "c1", "now" if len(before) else "frames later than that")
    chart.upright(LATE_MS, "late")
    p99 = percentile(new, 0.99)
    chart.upright(p99, f"p99 {p99:.1f} ms", "ink", row=1)
    about = f"Share of {len(new):,} reply frames that came later than so many ms".replace(",", " ")
    return card(
        "Frame jitter", about, chart.svg(about), [("c1", "now"), ("old", "before")] if len(before) else ()
    )


def _tail(values: Floats, most: float) -> list[Point]:
    ordered = np.sort(values)
    at = np.linspace(0, most, 120)
    beyond = 1 - np.searchsorted(ordered, at, side="right") / len(ordered)
    return [(float(x), float(share)) for x, share in zip(at, beyond, strict=True) if share > 1e-5]


def _small_share(value: float) -> str:
    return f"{100 * value:.3g} %"


def jitter_over_time(run: Run, band: tuple[float, float] | None) -> str:
    t, late = run.frames_t, run.frames_late_ms
    if len(t) < 100:
        return ""
    width = max(1.0, float(t[-1] - t[0]) / 120)
    edges = np.searchsorted(t, np.arange(t[0], t[-1], width))
    points: dict[float, list[Point]] = {0.5: [], 0.99: []}
    for begin, end in pairwise(edges):
        for share, line in points.items():
            if end - begin >= 10:
                line.append((float(t[begin]) + width / 2, max(0.0, percentile(late[begin:end], share))))
    if not points[0.99]:
        return ""
    chart = Chart(
        axis_to(float(t[-1]), "s into the run"),
        axis_to(max(5.0, 1.1 * max(y for _, y in points[0.99])), "ms"),
    )
    if band:
        chart.band(*band, "steady part")
    chart.line(points[0.99], "c2", "p99")
    chart.line(points[0.5], "c1", "p50")
    about = (
        f"Behind the schedule, frames of {width:.0f} s"
        if width > 1.5
        else "Behind the schedule, each second's frames"
    )
    return card("Frame jitter over the run", about, chart.svg(about), [("c2", "p99"), ("c1", "p50")])
