"""What each part of the gateway costs: one slice after the other, under the same callers.

The gateway has a core of its own; callers, emulated parts and this program have another. CPU is that of all
threads of the gateway's process, by the kernel's own clock of each (schedstat).
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.slice_gateway import OUTPUT_RATE, PROTOTYPE, SLICES
from bench.slice_points import BARE, Point, Reply, heard
from bench.stats import percentile
from bench.threads import ThreadMeter
from gateway.cli.common import Fault
from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.run import usage
from load.run.child import Child, Failed
from load.run.fleet import Fleet
from load.run.stage import Parts, can_pin, parts_up

CORE_A, CORE_B = 0, 1
_START_S = 30.0
_SAMPLE_S = 1.0
_STOP_S = 10.0
_WINDOW_S = 0.032
_PROFILE = "blueprint-1"
_NO_TURNS_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long what is watched."""

    sessions: int = 64
    come_s: float = 3.0
    bare_s: float = 12.0
    session_s: float = 20.0
    settle_bare_s: float = 2.5
    settle_session_s: float = 9.0
    alone: tuple[str, ...] = ("transport", "vad", "unary", "whole")
    """Slices measured with one session as well."""
    alone_s: float = 5.0

    @classmethod
    def short(cls) -> Plan:
        return cls(bare_s=4.0, session_s=4.0, settle_bare_s=1.0, settle_session_s=4.0, alone=())


async def measure(plan: Plan, names: Sequence[str] = SLICES) -> list[Point]:
    """Raises Fault."""
    found: list[Point] = []
    pinned = can_pin({CORE_A}, {CORE_B})
    cores_a, cores_b = ({CORE_A}, {CORE_B}) if pinned else (set[int](), set[int]())
    try:
        with tempfile.TemporaryDirectory(prefix="parley-slices-") as folder, kept_to(cores_b):
            out = Path(folder)
            program = await asyncio.to_thread(ensure_caller)
            clips = await asyncio.to_thread(ensure_clips)
            upstream = Child(
                "the unary calls' server", [sys.executable, "-m", "bench.slice_upstream"],
                log=out / "upstream.log", cores=cores_b, stop_s=3, talks=True,
            )  # fmt: skip
            async with parts_up(out, _PROFILE, [], clips, 1, cores_b) as parts, upstream:
                address = await upstream.line(_START_S)
                for name in names:
                    async with _gateway(name, out, parts, address, cores_a, plan.sessions) as gateway:
                        run = _Run(name, out, gateway, [parts.child.pid, upstream.pid], bool(cores_a))
                        async with Fleet(program, out / "callers.log", cores_b) as fleet:
                            await run.watch(fleet, plan, clips)
                        await run.end()
                    found += run.points()
    except (Failed, BuildError, NoSpeech) as error:
        raise Fault(str(error)) from None
    return found


@contextmanager
def kept_to(cores: set[int]) -> Iterator[None]:
    """This program keeps out of the gateway's way."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class _Gateway:
    child: Child
    address: str


@asynccontextmanager
async def _gateway(
    name: str, out: Path, parts: Parts, upstream: str, cores: set[int], sessions: int
) -> AsyncIterator[_Gateway]:
    env = {
        "PARLEY_ASR__URI": parts.asr,
        "PARLEY_LLM__BASE_URL": parts.llm,
        "PARLEY_TTS__URI": parts.triton,
        "PARLEY_LISTEN__GRPC": "127.0.0.1:0",
        "PARLEY_LISTEN__HTTP": "127.0.0.1:0",
        "PARLEY_LISTEN__ADMIN": "127.0.0.1:0",
        "PARLEY_SESSION__DRAIN_S": "0",
        "PARLEY_SESSION__MAX_SESSIONS": str(max(200, 2 * sessions)),
        # A busy machine must not be mistaken for a gateway that refuses sessions.
        "PARLEY_SESSION__ADMIT_BUSY": "0",
        "PARLEY_SESSION__ADMIT_LAG_MS": "0",
        "PARLEY_SESSION__ADMIT_BACKLOG_MS": "0",
    }
    program = ["bench.slice_prototype"] if name == PROTOTYPE else ["bench.slice_gateway", name]
    command = [sys.executable, "-m", *program, "--upstream", upstream]
    log = out / f"gateway-{name}.log"
    async with Child(
        f"the slice {name}", command, log=log, env=env, cores=cores, stop_s=8, talks=True
    ) as child:
        line = await child.line(_START_S)
        try:
            address = str(json.loads(line)["grpc"])
        except (ValueError, KeyError):
            raise Failed(f"the slice {name} said {line[:80]!r} instead of its address") from None
        yield _Gateway(child, address)


@dataclass(slots=True)
class _Window:
    sessions: int
    begin_s: float
    end_s: float = 0.0
    threads: list[float] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    late_ms: float = 0.0


class _Run:
    """The callers of one slice, and what was seen while they called."""

    def __init__(self, name: str, out: Path, gateway: _Gateway, upstream: list[int], apart: bool) -> None:
        self._name, self._gateway = name, gateway
        self._frames = out / f"frames-{name}.csv"
        self._upstream = upstream
        self._apart = apart
        self._threads = ThreadMeter(gateway.child.pid)
        self._windows: list[_Window] = []
        self._left_out = 0
        self._heard_s = 0.0

    async def watch(self, fleet: Fleet, plan: Plan, clips: Path) -> None:
        """Raises Failed."""
        bare = self._name in BARE
        window_s = plan.bare_s if bare else plan.session_s
        settle_s = plan.settle_bare_s if bare else plan.settle_session_s
        longest_s = 3 * (plan.come_s + settle_s + window_s + plan.alone_s) + 60
        calls: list[asyncio.Task[tuple[bool, str]]] = []
        since: list[float] = []

        def dial() -> None:
            since.append(time.monotonic())
            calls.append(asyncio.create_task(fleet.call(self._plan(clips, len(calls)), longest_s)))

        try:
            dial()
            if self._name in plan.alone:
                await asyncio.sleep(plan.settle_bare_s)
                await self._window(fleet, 1, plan.alone_s if bare else window_s, calls)
            for _ in range(1, plan.sessions):
                dial()
                await asyncio.sleep(plan.come_s / plan.sessions)
            await asyncio.sleep(settle_s)
            await self._window(fleet, plan.sessions, window_s, calls)
            self._heard_s = sum(time.monotonic() - begun for begun in since)
        finally:
            for number in range(1, len(calls) + 1):
                fleet.hang_up(number)
            _, late = await asyncio.wait(calls, timeout=_STOP_S)
            for call in late:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def end(self) -> None:
        """Ends the gateway, which says then what it left out. Raises Failed."""
        child = self._gateway.child
        os.kill(child.pid, signal.SIGTERM)
        line = await child.line(_STOP_S)
        try:
            self._left_out = int(json.loads(line)["left_out"])
        except (ValueError, KeyError):
            raise Failed(f"{child.name} said {line[:80]!r} in the end") from None

    def _plan(self, clips: Path, number: int) -> dict[str, Any]:
        plan: dict[str, Any] = {
            "host": self._gateway.address,
            "clips": str(clips),
            "output_rate": OUTPUT_RATE,
            "frames_csv": str(self._frames),
            "seed": number + 1,
        }
        if self._name in BARE:  # nobody answers
            return {**plan, "think_ms": [0, 1_000], "reply_timeout_ms": _NO_TURNS_MS}
        # Spread over a turn's length: else all would listen at once, and all would speak.
        return {**plan, "think_ms": [0, 0 if number == 0 else 12_000], "reply_share": 0.4}

    async def _window(
        self, fleet: Fleet, sessions: int, seconds: float, calls: Sequence[asyncio.Task[Any]]
    ) -> None:
        window = _Window(sessions, time.time())
        self._threads.begin()
        before, begun = self._used(fleet), time.monotonic()
        while (left := begun + seconds - time.monotonic()) > 0.01:
            await asyncio.sleep(min(_SAMPLE_S, left))
            self._threads.look()
            window.late_ms = max(window.late_ms, fleet.send_late_p99_ms or 0.0)
            self._check(calls)
        window.threads = self._threads.look()
        after, passed = self._used(fleet), time.monotonic() - begun
        window.end_s = window.begin_s + passed
        window.used = {key: (after[key] - before[key]) / passed for key in after}
        self._windows.append(window)

    def _check(self, calls: Sequence[asyncio.Task[Any]]) -> None:
        """Raises Failed when not everybody is in a call any more."""
        child = self._gateway.child
        if child.code is not None:
            raise Failed(f"{child.name} ended while it was loaded: {child.last_words()}")
        for call in calls:
            if call.done():
                why = "" if call.cancelled() else call.exception() or call.result()[1]
                raise Failed(f"a caller of {child.name} was cut off: {why or 'it hung up'}")

    def _used(self, fleet: Fleet) -> dict[str, float]:
        """CPU seconds so far: of both cores, of the gateway, and of what belongs to the other core."""
        busy = usage.cores_busy_s()
        roots = [self._gateway.child.pid, fleet.pid, *self._upstream]
        trees = usage.trees(roots)
        gateway, *rest = (usage.CpuMeter().look(trees.get(root, ())) for root in roots)
        own = sum(rest)
        return {
            "a": busy.get(CORE_A, 0.0), "b": busy.get(CORE_B, 0.0), "gateway": gateway,
            "load": own, "ours": own + time.process_time(),
        }  # fmt: skip

    def points(self) -> list[Point]:
        """Once the callers' program has ended: then its file is whole."""
        found = []
        replies = _replies(self._frames)
        left_out = self._left_out * _WINDOW_S / self._heard_s if self._heard_s else math.nan
        for window in self._windows:
            late, frames = heard(replies, window.begin_s, window.end_s)
            loop_s, detector_s, others_s = window.threads
            used = window.used
            found.append(
                Point(
                    self._name,
                    window.sessions,
                    window.end_s - window.begin_s,
                    loop_s,
                    detector_s,
                    others_s,
                    frames=frames,
                    jitter_p99_ms=percentile(late, 0.99),
                    send_late_ms=window.late_ms,
                    core_b=used["load"],
                    others_a=max(0.0, used["a"] - used["gateway"]) if self._apart else math.nan,
                    others_b=max(0.0, used["b"] - used["ours"]) if self._apart else math.nan,
                    left_out=left_out,
                )
            )
        return found


def _replies(path: Path) -> list[Reply]:
    """Those that ended: the callers write a reply down when it is over."""
    found: dict[tuple[str, str], Reply] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["caller"], row["reply"]), []).append(
                    (float(row["t"]), float(row["late_ms"]))
                )
    except FileNotFoundError:
        pass
    return list(found.values())
