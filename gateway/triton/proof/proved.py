"""What a proof found, fit for a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.triton.exported.reference import Row


@dataclass(frozen=True, slots=True)
class Proved:
    """One part of a model, run in one way, against what torch said."""

    model: str
    """Folder in the repository."""
    how: str
    """What ran it: ONNX Runtime, implicit state, Triton, a session on Triton."""
    compared: int
    """Outputs, utterances or sentences."""
    worst: float
    """Largest difference, in `unit`."""
    limit: float
    unit: str = ""
    """"" for absolute differences, "dB" below the signal, "wrong" for texts that differ."""
    ok: bool = True
    note: str = ""
    """Where it was worst, or why it failed."""


def of_rows(model: str, how: str, rows: Sequence[Row]) -> Proved:
    """A graph's cases in one line: the output that is furthest from what it may be."""
    if not rows:
        return Proved(model, how, 0, float("inf"), 0.0, ok=False, note="its reference holds no case")
    missed = [row for row in rows if not row.ok]
    floats = [row for row in rows if row.tolerance] or list(rows)
    worst = max(missed or floats, key=lambda row: row.difference)
    note = f"{worst.output}, {worst.case}, step {worst.step}"
    if missed:
        note = f"{len(missed)} of {len(rows)} miss; {note}"
    return Proved(model, how, len(rows), worst.difference, worst.tolerance, ok=not missed, note=note)


def failed(model: str, how: str, why: str) -> Proved:
    return Proved(model, how, 0, float("inf"), 0.0, ok=False, note=why)
