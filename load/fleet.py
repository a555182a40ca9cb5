"""The callers' program of one locust process: started once, fed plans, read by one greenlet."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gevent
from gevent.event import AsyncResult

from load.plans import Plan
from load.priority import put_first

log = logging.getLogger(__name__)

Sample = dict[str, Any]
"""{"id", "t" (UNIX s), "turn", "name", "ms", "ok", "why"}"""
_QUIT_S = 8.0
_PER_WORKER = 1_000_000


class FleetGone(RuntimeError):
    """The callers' program ended; `str()` says what it said."""


class Call:
    """One caller, from dialling to hanging up."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._ended = AsyncResult()

    def wait(self) -> tuple[bool, str]:
        """(fine, why not). Raises FleetGone."""
        return cast("tuple[bool, str]", self._ended.get())

    def end(self, ok: bool, why: str) -> None:
        self._ended.set((ok, why))

    def fail(self, error: FleetGone) -> None:
        self._ended.set_exception(error)


class Fleet:
    """Callers by the hundred. Everything runs in greenlets of the process that made it."""

    def __init__(
        self,
        program: Path,
        *,
        worker: int = 0,
        on_sample: Callable[[Sample], None],
        on_self: Callable[[dict[str, Any]], None],
    ) -> None:
        """worker: tells callers of several locust workers apart."""
        self._numbers = itertools.count(worker * _PER_WORKER + 1)
        self._calls: dict[int, Call] = {}
        self._on_sample, self._on_self = on_sample, on_self
        # In a session of its own: Ctrl+C is for locust, which hangs up properly.
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        put_first(self._process.pid)
        self._reader = gevent.spawn(self._read)

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, plan: Plan) -> Call:
        """Start a caller. Raises FleetGone."""
        call = Call(next(self._numbers))
        self._calls[call.number] = call
        self._tell({"cmd": "start", "id": call.number, "plan": plan})
        return call

    def hang_up(self, call: Call) -> None:
        """The turn that is open is cut. Nothing when it is over already."""
        if call.number in self._calls:
            try:
                self._tell({"cmd": "stop", "id": call.number})
            except FleetGone:
                pass

    def close(self) -> None:
        """Everybody hangs up; returns when the program has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it is gone already
        try:
            self._process.wait(_QUIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=1.0)

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._gone() from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            kind = event["e"]
            if kind == "sample":
                self._on_sample(event)
            elif kind == "self":
                self._on_self(event)
            elif call := self._calls.pop(event["id"], None):
                call.end(event["ok"], event["why"])
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(self._gone())

    def _gone(self) -> FleetGone:
        code = self._process.poll()
        return FleetGone(f"the callers' program ended with {code}: what it said is above")


class Recorder:
    """Appends what the callers said to the run folder; several workers may write into one."""

    SAMPLES = "t_s,caller,turn,name,ms,ok,why\n"
    SELF = "t_s,worker,callers,cpu_s,send_late_p99_ms,send_late_max_ms,frames_sent,held_back\n"

    def __init__(self, folder: Path, worker: int) -> None:
        """Raises OSError when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.frames = folder / "frames.csv"
        self._worker = worker
        self._samples = _appending(folder / "samples.csv", self.SAMPLES)
        self._self = _appending(folder / "self.csv", self.SELF)
        self._rows: list[str] = []

    def sample(self, s: Sample) -> None:
        why = s["why"].replace('"', "'")
        self._rows.append(
            f'{s["t"]:.4f},{s["id"]},{s["turn"]},{s["name"]},{s["ms"]:.3f},{int(s["ok"])},"{why}"\n'
        )

    def self(self, s: dict[str, Any]) -> None:
        """Comes once a second, and takes the samples to the disk with it."""
        row = (
            f"{s['t']:.3f},{self._worker},{s['callers']},{s['cpu_s']:.4f},{s['send_late_p99_ms']:.3f},"
            f"{s['send_late_max_ms']:.3f},{s['frames_sent']},{s['held_back']}\n"
        )
        os.write(self._self, row.encode())
        self.flush()

    def flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            os.write(self._samples, "".join(rows).encode())

    def close(self) -> None:
        self.flush()
        os.close(self._samples)
        os.close(self._self)


def _appending(path: Path, head: str) -> int:
    """A descriptor whose writes never tear those of another process."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(made, head.encode())
        os.close(made)
    except FileExistsError:
        pass
    return os.open(path, os.O_WRONLY | os.O_APPEND)
