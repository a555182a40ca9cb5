"""First chunks as a part of the report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from bench.first_chunk import CPU_MS, FIRST_AUDIO_MS, MODEL, SPOKEN_MS, Found, Plan, measure
from bench.report import Part, Table, number, verdict
from bench.slices import CORE_A, CORE_B
from bench.stats import percentile, summarise
from gateway.app import run_loop
from gateway.cli.common import Fault
from gateway.triton.errors import TritonError

RATIO, BUSY, LATE = 2.0, 0.6, 1.0
RANKS = (1, 2, 4, 8, 16, 32, 48, 64)


def main(*, quick: bool = False) -> Part:
    """Raises Fault."""
    plan = Plan.short() if quick else Plan()
    try:
        return report(run_loop(measure(plan)))
    except TritonError as error:
        raise Fault(str(error)) from None


def report(found: Found) -> Part:
    cores = (
        f"the model's process on core {CORE_A}, server and clients on core {CORE_B}"
        if found.pinned
        else "cores shared"
    )
    part = Part(
        "first-chunk",
        "A voice's first chunk under load",
        f"{MODEL}, which burns {CPU_MS:g} ms of CPU for 160 ms of audio, in a real Triton; {cores}. Steady: so many streams "
        f"all the time, each one text after the other ({SPOKEN_MS[0] / 1000:g} to {SPOKEN_MS[1] / 1000:g} s of audio, sent at "
        "real time half a second ahead, and heard to the end before the next one), starts spread over the texts. First "
        "chunk: from the request to its arrival at the client. "
        "Busy: CPU of server and model, and of the model alone, by the time that passed, of one core.",
    )
    part.tables = [_steady(found), _crowd(found), _cancel(found)]
    part.data = asdict(found)
    return part


def _steady(found: Found) -> Table:
    base = _p95(found, 1)
    rows = []
    for level in found.levels:
        seen = summarise(level.first_ms)
        ratio = seen.p95 / base
        goals = []
        if level.streams == 64:
            goals = [verdict(f"p95 ≤ {RATIO:g} × alone", ratio <= RATIO),
                     verdict(f"its core ≤ {BUSY:.0%} busy", level.model_busy <= BUSY)]  # fmt: skip
        rows.append(
            [
                str(level.streams),
                ", ".join(goals),
                str(seen.count),
                number(seen.p50, 2),
                number(seen.p95, 2),
                number(seen.most, 2),
                number(ratio, 2),
                f"{level.busy:.0%}",
                f"{level.model_busy:.0%}",
                f"{level.late} of {level.chunks}",
            ]
        )
    columns = (
        "streams",
        "goal",
        "first chunks",
        "p50 ms",
        "p95 ms",
        "max ms",
        "× alone",
        "busy",
        "model",
        "late chunks",
    )
    return Table(columns, rows)


def _crowd(found: Found) -> Table:
    cost_ms = CPU_MS * FIRST_AUDIO_MS / 160
    took, road = (
        [statistics.median(times) for times in zip(*crowds, strict=True)]
        for crowds in (found.crowd_ms, found.road_ms)
    )
    rows = [
        [str(rank), number(took[rank - 1], 1), number(road[rank - 1], 1), number(rank * cost_ms, 1),
         number(took[rank - 1] - road[rank - 1] - rank * cost_ms, 1)]
        for rank in RANKS
        if rank <= len(took)
    ]  # fmt: skip
    columns = (
        "k-th of 64 at once",
        "first chunk, ms",
        "the way alone",
        f"k × {cost_ms:g} ms of work",
        "beyond both",
    )
    return Table(columns, rows)


def _cancel(found: Found) -> Table:
    goal = verdict(f"≤ {LATE:g} chunk each", found.worst_late <= LATE)
    return Table(
        (
            "cancels",
            "chunks made after one, most",
            "on average",
            "goal",
            "engine free of it, p95 ≤ ms",
            "stream ended, p95 ms",
        ),
        [
            [
                str(found.cancels),
                number(found.worst_late),
                number(found.late_chunks / max(1, found.cancels), 2),
                goal,
                number(bucket_p95(found.free_s) * 1_000, 0),
                number(percentile(found.ended_ms, 0.95), 2),
            ]
        ],
    )


def bucket_p95(buckets: Sequence[tuple[float, float]]) -> float:
    """Upper edge of the bucket that holds the 95th percentile, in s."""
    most = max((count for _, count in buckets), default=0.0)
    return min((edge for edge, count in buckets if most and count >= 0.95 * most), default=math.nan)


def _p95(found: Found, streams: int) -> float:
    return next((percentile(one.first_ms, 0.95) for one in found.levels if one.streams == streams), math.nan)
