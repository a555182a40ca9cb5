"""`scripts/bench speed`: what one core carries, beside the goals.

Every point is a run of `scripts/load`: the gateway alone on one core, callers and emulated parts on the
other. Points are run in rounds, so that what the machine does meanwhile falls on all of them.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Part, Table, number
from bench.turns_part import FAST

Summary = dict[str, Any]
_QUICKLY = ("--spawn-rate", "16")
_TALK = ("--reply-share", "0.4", *_QUICKLY)
_PATIENT = ("--set", "session.admit_busy=0", "--set", "session.admit_backlog_ms=0")
"""The limit is looked for: nobody is to be refused before it."""
_FAST = tuple(word for key, value in FAST.items() for word in ("--set", f"turn.{key}={str(value).lower()}"))
_LIMIT_STEP_S = 35.0
_ROUNDS = 3
_RUN_MORE_S = 90.0
"""What a run may take beyond its load."""


@dataclass(frozen=True, slots=True)
class Point:
    name: str
    scenario: str
    sessions: int
    seconds: float
    profile: str = "blueprint-1"
    options: tuple[str, ...] = ()
    locust: tuple[str, ...] = ()


POINTS = (
    Point("1", "steady", 1, 100, locust=_TALK),
    Point("64", "steady", 64, 35, "blueprint-64", locust=_TALK),
    Point("1 fast", "steady", 1, 100, options=_FAST, locust=_TALK),
    Point("64 fast", "steady", 64, 30, "blueprint-64", options=_FAST, locust=_TALK),
    Point("1 barge-in", "barge_in", 1, 35),
    Point("64 barge-in", "barge_in", 64, 30, "blueprint-64", locust=_QUICKLY),
)
LADDER = (96, 110, 125, 140, 155)


@dataclass(frozen=True, slots=True)
class Goal:
    title: str
    point: str
    value: Callable[[Summary], float]
    most: float
    digits: int = 0


def _at(*path: str) -> Callable[[Summary], float]:
    def value(summary: Summary) -> float:
        found: Any = summary
        for key in path:
            found = (found or {}).get(key)
        return math.inf if found is None else float(found)

    return value


def _memory(summary: Summary) -> float:
    return _at("gateway", "memory_per_session_mb")(summary)


def _ms(name: str, share: str) -> Callable[[Summary], float]:
    return _at("samples", name, share)


GOALS = (
    Goal("CPU seconds per session-minute, 64 sessions", "64", _at("gateway", "cpu_s_per_session_minute"), 0.55, 3),
    Goal("over the parts' sum past the end of turn, p50, 1 session, ms", "1", _at("overhead_ms", "p50"), 15),
    Goal("the same, 64 sessions", "64", _at("overhead_ms", "p50"), 30),
    Goal("voice to voice, defaults, p50, 1 session, ms", "1", _ms("voice_to_voice", "p50"), 660),
    Goal("the same, p95", "1", _ms("voice_to_voice", "p95"), math.inf),
    Goal("voice to voice, defaults, p50, 64 sessions, ms", "64", _ms("voice_to_voice", "p50"), 970),
    Goal("the same, p95", "64", _ms("voice_to_voice", "p95"), math.inf),
    Goal("voice to voice, eager and short hangover, p50, 1 session, ms", "1 fast", _ms("voice_to_voice", "p50"), 400),
    Goal("the same, p95", "1 fast", _ms("voice_to_voice", "p95"), math.inf),
    Goal("voice to voice, eager and short hangover, p50, 64 sessions, ms", "64 fast", _ms("voice_to_voice", "p50"), 700),
    Goal("the same, p95", "64 fast", _ms("voice_to_voice", "p95"), math.inf),
    Goal("barge-in: onset → last stale frame, p50, 1 session, ms", "1 barge-in", _ms("barge_in", "p50"), 130),
    Goal("the same, p95", "1 barge-in", _ms("barge_in", "p95"), 220),
    Goal("barge-in: onset → last stale frame, p50, 64 sessions, ms", "64 barge-in", _ms("barge_in", "p50"), 130),
    Goal("the same, p95", "64 barge-in", _ms("barge_in", "p95"), 240),
    Goal("detection → last stale frame, p95, 64 sessions, ms", "64 barge-in", _ms("detect_to_stale", "p95"), 20),
    Goal("frame jitter at the client, p99, 64 sessions, ms", "64", _at("frames", "jitter_p99_ms"), 5, 1),
    Goal("frames over 20 ms late, 64 sessions, share", "64", _at("frames", "late_share"), 0.01, 4),
    Goal("memory per session, 64 sessions, MB", "64", _memory, 1.0, 2),
)  # fmt: skip


def main(rounds: int = _ROUNDS) -> Part:
    """Prints as it goes. Raises RuntimeError when a run gave no figures."""
    runs: dict[str, list[Summary]] = {point.name: [] for point in POINTS}
    for number_ in range(rounds):
        for point in POINTS:
            runs[point.name].append(_run(point, seed=number_ + 1))
    alone = statistics.median(_ms("voice_to_voice", "p95")(s) for s in runs["1"])
    steps = ladder(alone)
    about = (
        "The gateway on one core; callers (Go), emulated parts and locust on the other. Real speech at 16 kHz in, "
        "48 kHz out, replies 40 % of the time, 20 ms frames both ways, one connection a caller, detector on for "
        f"everybody. {rounds} rounds; the middle one, and in brackets the least and the most. Parts: with 1 session "
        "40 ms to the final, 126 to the first token, 138 to the first sentence, 78 to the first audio; with 64 "
        "67, 156, 386 and 110. What a run is void for is in docs/guides/load-tests.md."
    )
    part = Part("speed", "Speed: one core", about)
    part.tables = [goals_table(runs), ladder_table(steps, alone)]
    part.findings = [*_voids(runs), _limit(steps, alone)]
    part.data = {"runs": runs, "ladder": steps}
    return part


def goals_table(runs: dict[str, list[Summary]]) -> Table:
    rows = []
    for goal in GOALS:
        values = sorted(goal.value(summary) for summary in runs[goal.point])
        middle = statistics.median(values)
        verdict = "" if goal.most == math.inf else "met" if middle <= goal.most else "MISSED"
        wanted = "" if goal.most == math.inf else f"≤ {goal.most:g}"
        spread = f"{number(values[0], goal.digits)} … {number(values[-1], goal.digits)}"
        rows.append([goal.title, f"{number(middle, goal.digits)} ({spread})", wanted, verdict])
    return Table(("figure", "measured", "goal", ""), rows)


def ladder(alone_ms: float) -> list[Summary]:
    """More and more sessions, up to the first number that one core does not carry."""
    steps: list[Summary] = []
    for sessions in LADDER:
        point = Point(f"{sessions}", "steady", sessions, _LIMIT_STEP_S, locust=_TALK)
        steps.append(_run(point, seed=sessions))
        if why_not(steps[-1], alone_ms):
            break
    return steps


def why_not(summary: Summary, alone_ms: float) -> str:
    """What a number of sessions breaks; empty: carried."""
    gateway, frames = summary["gateway"], summary["frames"]
    reasons = []
    if not frames["late_share"] <= 0.01:
        reasons.append(f"{frames['late_share']:.1%} of the frames late")
    if not _ms("voice_to_voice", "p95")(summary) <= 1.2 * alone_ms:
        reasons.append("p95 voice to voice over 1.2 × that of one")
    if not float(gateway["vad_backlog_ms"]["p95"] or 0) <= 150:
        reasons.append("the detector falls behind")
    if summary["turns"]["failed_share"]:
        reasons.append(f"{summary['turns']['failed_share']:.1%} of the turns failed")
    if summary["void"]:
        reasons.append("void: " + " ".join(summary["void"]))
    return "; ".join(reasons)


def ladder_table(steps: Sequence[Summary], alone_ms: float) -> Table:
    rows = []
    for step in steps:
        v2v = _ms("voice_to_voice", "p95")(step)
        gateway, frames, generator = step["gateway"], step["frames"], step["generator"]
        rows.append(
            [
                str(step["sessions"]),
                number(gateway["cpu_cores"] * 100),
                number(gateway["cpu_s_per_session_minute"], 3),
                number(v2v),
                number(v2v / alone_ms, 2),
                number(100 * frames["late_share"], 2),
                number(frames["jitter_p99_ms"], 1),
                number(gateway["vad_backlog_ms"]["p95"] or 0),
                number(100 * generator["core_b"]),
                number(generator["send_late_p99_ms"], 1),
                why_not(step, alone_ms) or "carried",
            ]
        )
    columns = (
        "sessions", "% of the core", "CPU s a session-minute", "v2v p95 ms", "× one", "late %", "jitter p99 ms",
        "backlog p95 ms", "callers' core %", "sent late p99 ms", "",
    )  # fmt: skip
    return Table(columns, rows)


def _limit(steps: Sequence[Summary], alone_ms: float) -> str:
    carried = [step["sessions"] for step in steps if not why_not(step, alone_ms)]
    most = max(carried, default=0)
    verdict = "met" if most >= 110 else "MISSED"
    return f"Sessions on one core: {most} (goal ≥ 110: {verdict})."


def _voids(runs: dict[str, list[Summary]]) -> Iterable[str]:
    for name, summaries in runs.items():
        for round_, summary in enumerate(summaries, 1):
            for reason in summary["void"]:
                yield f"{name}, round {round_} is void: {reason}"
            if summary["disturbed"]:
                yield f"{name}, round {round_}: {summary['disturbed']}"


def _run(point: Point, *, seed: int) -> Summary:
    with tempfile.TemporaryDirectory(prefix="parley-speed-") as out:
        command = [sys.executable, "-m", "load", point.scenario, "--out", out, "--allow-void"]
        command += ["--sessions", str(point.sessions), "--duration", f"{point.seconds:g}"]
        command += ["--profile", point.profile, "--seed", str(seed), *_PATIENT, *point.options]
        if point.locust:
            command += ["--", *point.locust]
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=point.seconds + _RUN_MORE_S, check=False
        )
        try:
            summary: Summary = json.loads((Path(out) / "summary.json").read_text())
        except (OSError, ValueError):
            last = (run.stderr or run.stdout).strip().rpartition("\n")[2]
            raise RuntimeError(f"the run {point.name} gave no figures: {last}") from None
    kept = (
        "sessions",
        "samples",
        "turns",
        "gateway",
        "frames",
        "overhead_ms",
        "generator",
        "void",
        "disturbed",
    )
    found = {key: summary.get(key) for key in kept}
    print(f"{point.name}: {_line(found)}", file=sys.stderr, flush=True)
    return found


def _line(summary: Summary) -> str:
    gateway, frames = summary["gateway"] or {}, summary["frames"]
    return (
        f"{number(gateway.get('cpu_s_per_session_minute') or math.nan, 3)} CPU s a session-minute, "
        f"v2v p50 {number(_ms('voice_to_voice', 'p50')(summary))} p95 {number(_ms('voice_to_voice', 'p95')(summary))} ms, "
        f"over the parts {number(_at('overhead_ms', 'p50')(summary))} ms, "
        f"barge-in p95 {number(_ms('barge_in', 'p95')(summary))} ms, "
        f"jitter p99 {number(frames['jitter_p99_ms'] if frames['jitter_p99_ms'] is not None else math.nan, 1)} ms"
        f"{'; void: ' + ' '.join(summary['void']) if summary['void'] else ''}"
    )
