"""`scripts/bench --quick`: has the gateway become dearer?

A gateway on a core of its own, emulated parts, 1 and 32 callers. What a session costs is divided by what
a fixed piece of work costs on this machine at the same time, so that the committed figures
(bench/guard.json) mean something elsewhere, and on a busy day.
"""

from __future__ import annotations

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import describe
from bench.report import Table, machine_text, markdown, number
from gateway.cli.common import FAILED, OK, complain

COMMITTED = Path(__file__).with_suffix(".json")
LIMIT = 1.25
"""Over this ratio to the committed figure, it has."""
_POINTS = {1: 12.0, 32: 22.0}
"""Callers: seconds of load."""
_RUN_S = 60.0


@dataclass(frozen=True, slots=True)
class Figure:
    key: str
    title: str
    digits: int
    guarded: bool = True


FIGURES = (
    Figure("per_session_minute_1", "CPU s per session-minute, 1 session", 2, guarded=False),
    Figure("per_session_minute_32", "CPU s per session-minute, 32 sessions", 3, guarded=False),
    Figure("work_1", "the same in units of the fixed work, 1 session", 2),
    Figure("work_32", "the same in units of the fixed work, 32 sessions", 3),
    Figure("share_of_one", "a session among 32, to one alone", 3),
    Figure("memory_mb", "MB a session, 32 sessions", 2),
)


def main(*, keep: bool = False) -> int:
    """keep: make what is measured now the committed figures."""
    machine = describe("scripts/bench --quick")
    print(machine_text(machine), flush=True)
    try:
        now = measure()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        complain(f"nothing was measured: {error}")
        return FAILED
    if keep:
        COMMITTED.write_text(json.dumps({"machine": machine, "figures": now}, indent=1) + "\n")
    committed = json.loads(COMMITTED.read_text())["figures"]
    rows, dearer = compared(now, committed)
    print(markdown(Table(("", "now", "committed", "ratio", "limit"), rows)))
    for title in dearer:
        print(f"dearer than it may be: {title}")
    return FAILED if dearer else OK


def compared(now: dict[str, float], committed: dict[str, float]) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and the titles of what became dearer than it may."""
    rows, dearer = [], []
    for figure in FIGURES:
        value, before = now.get(figure.key, math.nan), committed.get(figure.key, math.nan)
        ratio = value / before if before else math.nan
        rows.append(
            [
                figure.title,
                number(value, figure.digits),
                number(before, figure.digits),
                number(ratio, 2),
                f"≤ {LIMIT:g}" if figure.guarded else "",
            ]
        )
        if figure.guarded and not ratio <= LIMIT:  # not known is not well
            dearer.append(figure.title)
    return rows, dearer


def measure() -> dict[str, float]:
    """Raises RuntimeError when a run gave no figures."""
    found: dict[str, float] = {}
    for sessions, seconds in _POINTS.items():
        works: list[float] = []
        stop = threading.Event()
        beside = threading.Thread(target=_keep_working, args=(works, stop), name="fixed work")
        beside.start()
        try:
            gateway = _load(sessions, seconds)
        finally:
            stop.set()
            beside.join()
        cost = float(gateway["cpu_s_per_session_minute"])
        found[f"per_session_minute_{sessions}"] = cost
        found[f"work_{sessions}"] = cost / statistics.median(works)
        found["memory_mb"] = float(gateway["memory_per_session_mb"] or math.nan)
    found["share_of_one"] = found["work_32"] / found["work_1"]
    return found


def _load(sessions: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="parley-guard-") as out:
        command = [sys.executable, "-m", "load", "steady", "--out", out, "--allow-void"]
        command += ["--sessions", str(sessions), "--duration", str(seconds)]
        # A busy machine must not be mistaken for a gateway that refuses sessions.
        command += ["--set", "session.admit_busy=0", "--", "--reply-share", "0.4"]
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_RUN_S, check=False, env=dict(os.environ)
        )
        try:
            gateway = json.loads((Path(out) / "summary.json").read_text())["gateway"]
            if gateway["cpu_s_per_session_minute"] is None:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            last = (run.stderr or run.stdout).strip().rpartition("\n")[2]
            raise RuntimeError(f"the run of {sessions} callers gave no figures: {last}") from None
        return dict(gateway)


def _keep_working(works: list[float], stop: threading.Event) -> None:
    """A short stretch of fixed work each 2 s, on whatever core is free: hardly a load of its own."""
    while True:
        works.append(fixed_work_s())
        if stop.wait(2.0):
            return


def fixed_work_s() -> float:
    """CPU seconds (of this thread) of work like a gateway's: objects, small arrays, JSON, a socket."""
    begin = time.thread_time()
    left, right = socket.socketpair()
    with left, right:
        samples = np.zeros(512, np.float32)
        for number_ in range(2_000):
            message = {"number": number_, "text": "a word or two", "level": float(np.dot(samples, samples))}
            left.send(json.dumps(message).encode())
            json.loads(right.recv(4_096))
            samples = samples * np.float32(0.5) + np.float32(number_ % 7)
    return time.thread_time() - begin
