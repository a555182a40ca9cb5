"""A run folder as it was measured: samples, frames, one line of levels a second."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TIMELINE = (
    "t_s", "sessions", "gateway_cpu", "gateway_rss_mb", "callers_cpu", "emulators_cpu", "locust_cpu",
    "vad_backlog_ms", "tasks", "send_late_p99_ms", "core_a_other", "core_b_other",
)  # fmt: skip
"""Columns of timeline.csv. CPU in cores, `core_*_other` what other programs used of that core; empty: not known."""

SAMPLES = ("t_s", "caller", "turn", "name", "ms", "ok", "why")
FRAMES = ("t", "caller", "reply", "seq", "late_ms")


COUNTS = ("frames", "frames_late", "stale_frames", "early_end", "early_stop", "send_late")
"""Samples whose value stands, fine or not: counts, and the callers' own lateness."""
OWN_FAULT = "send_late"
"""Never a failure of the gateway."""


@dataclass(slots=True)
class Series:
    """All samples of one name, in the order they came; a time is infinite where `ok` was false."""

    t_s: Floats
    caller: list[str]
    turn: list[str]
    ms: Floats
    why: list[str]
    """Of each: empty when it was fine."""

    def __len__(self) -> int:
        return len(self.ms)

    def between(self, begin: float, end: float) -> Series:
        chosen = np.flatnonzero((self.t_s >= begin) & (self.t_s <= end))
        return Series(
            self.t_s[chosen],
            [self.caller[k] for k in chosen],
            [self.turn[k] for k in chosen],
            self.ms[chosen],
            [self.why[k] for k in chosen],
        )


@dataclass(slots=True)
class Run:
    """Times are UNIX seconds in the files, seconds since `epoch` here."""

    facts: dict[str, Any]
    """run.json: scenario, command, machine, settings, profile, cores, and what the parts counted themselves."""
    epoch: float = 0.0
    samples: dict[str, Series] = field(default_factory=dict)
    frames_t: Floats = field(default_factory=lambda: np.empty(0))
    frames_late_ms: Floats = field(default_factory=lambda: np.empty(0))
    timeline: dict[str, Floats] = field(default_factory=dict)

    def of(self, name: str) -> Series:
        return self.samples.get(name) or Series(np.empty(0), [], [], np.empty(0), [])

    @property
    def seconds(self) -> Floats:
        return self.timeline.get("t_s", np.empty(0))

    def level(self, column: str) -> Floats:
        """A column of the timeline; nan where it is not known."""
        return self.timeline.get(column, np.full(len(self.seconds), np.nan))


def read(folder: Path) -> Run:
    """Raises OSError when the folder is none of ours, ValueError when a file in it is broken."""
    run = Run(json.loads((folder / "run.json").read_text()))
    run.timeline = _read_timeline(folder / "timeline.csv")
    run.samples = _read_samples(folder / "samples.csv")
    run.frames_t, run.frames_late_ms = _read_frames(folder / "frames.csv")
    starts = [times[0] for times in (run.seconds, *(s.t_s for s in run.samples.values())) if len(times)]
    run.epoch = float(min(starts, default=0.0))
    if len(run.seconds):
        run.timeline["t_s"] = run.seconds - run.epoch
    for series in run.samples.values():
        series.t_s = series.t_s - run.epoch
    run.frames_t = run.frames_t - run.epoch
    return run


def _read_samples(path: Path) -> dict[str, Series]:
    by_name: dict[str, list[list[str]]] = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            for row in rows:
                if len(row) == len(SAMPLES):  # the last line of a run that was cut may be half of one
                    by_name.setdefault(row[3], []).append(row)
    return {name: _series(rows, counts=name in COUNTS) for name, rows in by_name.items()}


def _series(rows: list[list[str]], *, counts: bool) -> Series:
    fine = [row[5].strip().lower() in ("1", "true") for row in rows]
    return Series(
        np.array([float(row[0]) for row in rows]),
        [row[1] for row in rows],
        [row[2] for row in rows],
        np.array(
            [
                float(row[4]) if row[4] and (ok or counts) else np.inf
                for row, ok in zip(rows, fine, strict=True)
            ]
        ),
        ["" if ok else row[6] or "unknown" for row, ok in zip(rows, fine, strict=True)],
    )


def _read_frames(path: Path) -> tuple[Floats, Floats]:
    if not path.exists() or path.stat().st_size == 0:
        return np.empty(0), np.empty(0)
    with path.open() as file:
        if sum(1 for _, _ in zip(range(2), file, strict=False)) < 2:
            return np.empty(0), np.empty(0)
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 4), ndmin=2)
    except ValueError:  # the last line of a run that was cut may be half of one
        whole = path.read_text().rpartition("\n")[0]
        table = np.loadtxt(io.StringIO(whole), delimiter=",", skiprows=1, usecols=(0, 4), ndmin=2)
    table = table[np.isfinite(table).all(axis=1)]
    order = np.argsort(table[:, 0], kind="stable")
    return table[order, 0], table[order, 1]


def _read_timeline(path: Path) -> dict[str, Floats]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        column: np.array([float(row[column]) if row.get(column) else np.nan for row in rows])
        for column in TIMELINE
        if rows and column in rows[0]
    }


def failures(run: Run) -> Counter[tuple[str, str]]:
    """How often each (sample name, reason) failed."""
    return Counter(
        (name, why) for name, series in run.samples.items() for why in series.why if why and name != OWN_FAULT
    )
