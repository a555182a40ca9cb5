"""What was found of exported models, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.export_plan import Plan
from bench.report import Table, number
from bench.stats import percentile

Found = Mapping[str, Mapping[str, Any]]
"""By family, as export_part.measured found it."""


def tables(found: Found, plan: Plan) -> list[Table]:
    kinds = {
        kind: {f: one for f, one in found.items() if one["front"]["kind"] == kind} for kind in ("asr", "tts")
    }
    made = [_cost(found, plan), _batching(found, plan)]
    if kinds["asr"]:
        made.append(_answers(kinds["asr"]))
    if kinds["tts"]:
        made.append(_first_chunks(kinds["tts"], plan))
    return [*made, _size(found)]


def served(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """Cost on Triton: of a recogniser with the most sessions."""
    levels = one["triton"].get("levels")
    told: Mapping[str, Any] = levels[-1] if levels else one["triton"]
    return told


def per_second(one: Mapping[str, Any]) -> float:
    """CPU seconds of one second of audio."""
    return float(one["cpu_s"]) / max(float(one["audio_s"]), 1e-9)


def _cost(found: Found, plan: Plan) -> Table:
    rows = []
    for family, one in found.items():
        torch, front, triton = (per_second(told) for told in (one["torch"], one["front"], served(one)))
        graphs = sum(graph["cpu_s"] for graph in one["front"]["graphs"].values())
        rows.append(
            [
                family,
                plan.what(family),
                number(one["torch"]["parameters"] / 1e6, 1),
                number(torch, 4),
                number(front, 4),
                number(torch / front, 2),
                number(100 * (1 - graphs / one["front"]["cpu_s"])),
                number(triton, 4),
                number(1 / max(triton, 1e-9), 1),
            ]
        )
    columns = (
        "CPU s for 1 s of audio", "what", "M parameters", "torch", "ONNX Runtime", "torch by ORT", "front, % of it",
        "Triton", "streams per core",
    )  # fmt: skip
    return Table(columns, rows)


def _batching(found: Found, plan: Plan) -> Table:
    rows = []
    for family, one in found.items():
        batch, of = one["front"]["batch"], one["front"]["batch_of"]
        if not batch:
            rows.append([family, "one utterance a run", *("–" for _ in plan.sizes)])
            continue
        alone = batch["1"]
        cells = [
            f"{batch[str(n)] * 1_000:.1f} ms ({batch[str(n)] / alone:.2f})" if str(n) in batch else "–"
            for n in plan.sizes
        ]
        rows.append([family, of, *cells])
    return Table(("CPU of each, so many at once", "of", *map(str, plan.sizes)), rows)


def _answers(found: Found) -> Table:
    rows = []
    for family, one in found.items():
        for level in one["triton"]["levels"]:
            partial, final = level["partial_ms"], level["final_ms"]
            rows.append(
                [family, str(level["sessions"])]
                + [number(percentile(partial, share), 1) for share in (0.5, 0.95)]
                + [number(percentile(final, 0.5), 1), number(max(final), 1), number(per_second(level), 4)]
            )
    columns = (
        "chunk sent → its answer, ms", "sessions", "p50", "p95", "last chunk, p50", "max", "CPU s for 1 s",
    )  # fmt: skip
    return Table(columns, rows)


def _first_chunks(found: Found, plan: Plan) -> Table:
    rows = []
    for family, one in found.items():
        told = one["triton"]
        alone = percentile(told["alone_ms"], 0.5)
        cells = []
        for size in plan.crowds:
            crowd = told["crowds_ms"][str(size)]
            middle = percentile(crowd, 0.5)
            cells += [number(middle, 1), number(max(crowd), 1), number(middle / alone, 1)]
        rows.append([family, number(alone, 1), *cells])
    heads = [head for size in plan.crowds for head in (f"{size} at once, p50", "max", "p50 by alone")]
    return Table(("sentence sent → first audio, ms", "alone, p50", *heads), rows)


def _size(found: Found) -> Table:
    rows = [
        [
            family,
            number(one["disk_mb"], 1),
            number(one["triton"]["rss_mb"]),
            number(one["torch"]["rss_mb"]),
            number(one["export"]["cpu_s"]),
            number(one["export"]["wall_s"]),
        ]
        for family, one in found.items()
    ]
    columns = (
        "memory and disk, MB", "on disk", "model process on Triton, after use", "torch's process", "export, CPU s", "s",
    )  # fmt: skip
    return Table(columns, rows)
