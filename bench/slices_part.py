"""The slices as a part of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from bench import slices
from bench.report import Part, Table, number, verdict
from bench.slice_gateway import PROTOTYPE
from bench.slice_points import TITLES, WITHIN, Point, added, ratio
from bench.slices import Plan
from gateway.app import run_loop

COLUMNS = (
    "slice", "CPU s per session-minute", "adds", "% of a core", "loop", "detector", "gRPC and others",
    "replies, % of the time", "frame jitter p99, ms",
)  # fmt: skip


def main(*, quick: bool = False) -> Part:
    """Raises Fault."""
    plan = Plan.short() if quick else Plan()
    return report(run_loop(slices.measure(plan)), plan)


def report(points: Sequence[Point], plan: Plan) -> Part:
    part = Part(
        "slices",
        "What each part of the gateway costs",
        f"The gateway in slices, each with the ones before it, on core {slices.CORE_A}; {plan.sessions} callers over "
        f"gRPC, the emulated parts and the measuring program on core {slices.CORE_B}. 16 kHz in, 48 kHz out, frames of "
        "20 ms both ways. CPU of all threads (schedstat) over "
        f"{plan.bare_s:.0f} s, from the session on over {plan.session_s:.0f} s. Adds: over the slice before; the real "
        "session over the detector's slice, as it makes no unary calls. Loop, detector, gRPC: % of a core by thread. "
        "Prototype: a bare server (grpc.aio, detector, unary calls and nothing else), to learn what can be reached.",
    )
    for title, sessions in ((f"{plan.sessions} sessions", plan.sessions), ("1 session", 1)):
        chosen = [point for point in points if point.sessions == sessions]
        if chosen:
            first = (f"{COLUMNS[0]}, {title}", *COLUMNS[1:])
            part.tables.append(
                Table(first, [_row(p, more) for p, more in zip(chosen, added(chosen), strict=True)])
            )
    part.findings = findings(points, plan.sessions)
    part.data = {
        "points": [
            asdict(point) | {"cost": point.cost, "void": point.void(), "disturbed": point.disturbed()}
            for point in points
        ]
    }
    return part


def findings(points: Sequence[Point], sessions: int) -> list[str]:
    """What is met, and which figures are not to be believed."""
    found = []
    share, goal = ratio(points, sessions), f"≤ {WITHIN:.2f}"
    void = any(p.void() for p in points if p.name in (PROTOTYPE, "unary") and p.sessions == sessions)
    if share == share:
        judged = f"{goal}: void" if void else verdict(goal, share <= WITHIN)
        found.append(f"transport, detector and unary calls: {share:.2f} of the prototype ({judged})")
    for point in points:
        where = f"{point.name}, {point.sessions} session{'s' if point.sessions > 1 else ''}"
        if reasons := point.void():
            found.append(f"void: {where}: {', '.join(reasons)}")
        if said := point.disturbed():
            found.append(f"disturbed: {where}: {said}")
    return found


def _row(point: Point, more: float) -> list[str]:
    share = 100 / point.seconds
    return [
        TITLES[point.name],
        number(point.cost, 3),
        f"{more:+.3f}" if more == more else number(more),
        number(100 * point.core, 1),
        *(number(used * share, 1) for used in (point.loop_s, point.detector_s, point.others_s)),
        number(100 * point.reply_share),
        number(point.jitter_p99_ms, 1),
    ]
