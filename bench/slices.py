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
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.slice_gateway import OUTPUT_RATE, SLICES
from bench.stats import percentile
from gateway.cli.common import Fault
from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.report.summary import MOST_CORE_B, MOST_LATE_SEND_MS, NOISY
from load.run import usage
from load.run.child import Child, Failed
from load.run.fleet import Fleet
from load.run.stage import Parts, can_pin, parts_up

CORE_A, CORE_B = 0, 1
TITLES = {
    "transport": "gRPC: audio in and dropped, paced frames out 40 % of the time",
    "vad": "+ detector, every window",
    "unary": "+ a unary call for each 160 ms",
    "session": "the real session instead, parts within the process",
    "shaping": "+ resampling (22.05 → 48 kHz) and levelling",
    "riva": "+ Riva streams",
    "llm": "+ LLM over HTTP",
    "whole": "+ TTS over Triton: the whole gateway",
}
PROTOTYPE = {"transport": 0.164, "vad": 0.27, "unary": 0.375}
"""CPU s per session-minute at 64 sessions of the bare prototype from which this gateway's design comes. The
last one was measured as a whole (40 % of a core); the others are put together from its costs per frame (36 us
in, 47 us out) and per second of detection (1.75 ms)."""
BARE = frozenset(PROTOTYPE)
WITHIN = 1.10
"""Of the prototype's figure, the slice that it carried too."""
_START_S = 30.0
_COME_S = 3.0
_SAMPLE_S = 1.0
_PROFILE = "blueprint-1"
_NO_TURNS_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long what is watched."""

    sessions: int = 64
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


@dataclass(frozen=True, slots=True)
class Point:
    """One slice under so many callers."""

    name: str
    sessions: int
    seconds: float
    loop_s: float
    """CPU seconds of the event loop's thread."""
    detector_s: float
    """Of the detector's."""
    others_s: float
    """Of gRPC's own, and of all others."""
    frames: int
    """Of reply audio that came at the callers."""
    jitter_p99_ms: float
    send_late_ms: float
    """The callers' own lateness: p99 of the worst second."""
    core_b: float
    """Share of their core that callers and emulated parts used."""
    others_a: float = math.nan
    """Share of the gateway's core that other programs used; nan when nothing is kept apart."""
    others_b: float = math.nan

    @property
    def cpu_s(self) -> float:
        return self.loop_s + self.detector_s + self.others_s

    @property
    def cost(self) -> float:
        """CPU s per session-minute."""
        return 60 * self.cpu_s / (self.sessions * self.seconds)

    @property
    def core(self) -> float:
        """Share of a core."""
        return self.cpu_s / self.seconds

    @property
    def reply_share(self) -> float:
        """Of the time; 0.4 is meant."""
        return self.frames * 0.020 / (self.sessions * self.seconds)

    def void(self) -> list[str]:
        """Why the figures do not speak of the gateway."""
        reasons = []
        if self.send_late_ms > MOST_LATE_SEND_MS:
            reasons.append(f"the callers sent up to {self.send_late_ms:.1f} ms late")
        if self.core_b > MOST_CORE_B:
            reasons.append(f"callers and emulated parts used {self.core_b:.0%} of their core")
        return reasons

    def disturbed(self) -> str:
        """What other programs used of the cores; empty when that is little."""
        used = [
            f"{share:.0%} of the {whose} core"
            for whose, share in (("gateway's", self.others_a), ("callers'", self.others_b))
            if share > NOISY
        ]
        return f"other programs used {' and '.join(used)}" if used else ""


def added(points: Sequence[Point]) -> list[float]:
    """CPU s per session-minute over the slice before; of the first, all of it. The real session takes the place
    of the bare one: what it adds is over the detector's slice, for it makes no unary calls."""
    cost = {point.name: point.cost for point in points}
    before = {name: SLICES[k - 1] for k, name in enumerate(SLICES) if k} | {"session": "vad"}
    return [p.cost - cost.get(before[p.name], math.nan) if p.name in before else p.cost for p in points]


def ratio(point: Point) -> float:
    """To the prototype; nan where it had no such slice, or was not measured."""
    return point.cost / PROTOTYPE.get(point.name, math.nan) if point.sessions > 1 else math.nan


async def measure(plan: Plan, names: Sequence[str] = SLICES) -> list[Point]:
    """Raises Fault."""
    found: list[Point] = []
    pinned = can_pin({CORE_A}, {CORE_B})
    cores_a, cores_b = ({CORE_A}, {CORE_B}) if pinned else (set[int](), set[int]())
    try:
        with tempfile.TemporaryDirectory(prefix="parley-slices-") as folder, _on(cores_b):
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
                    found += run.points()
    except (Failed, BuildError, NoSpeech) as error:
        raise Fault(str(error)) from None
    return found


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
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
        "PARLEY_SESSION__DRAIN_S": "0",
        "PARLEY_SESSION__MAX_SESSIONS": str(max(200, 2 * sessions)),
        # A busy machine must not be mistaken for a gateway that refuses sessions.
        "PARLEY_SESSION__ADMIT_BUSY": "0",
        "PARLEY_SESSION__ADMIT_LAG_MS": "0",
        "PARLEY_SESSION__ADMIT_BACKLOG_MS": "0",
    }
    command = [sys.executable, "-m", "bench.slice_gateway", name, "--upstream", upstream]
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

    async def watch(self, fleet: Fleet, plan: Plan, clips: Path) -> None:
        """Raises Failed."""
        bare = self._name in BARE
        window_s = plan.bare_s if bare else plan.session_s
        settle_s = plan.settle_bare_s if bare else plan.settle_session_s
        longest_s = 3 * (_COME_S + settle_s + window_s + plan.alone_s) + 60
        calls: list[asyncio.Task[tuple[bool, str]]] = []

        def dial() -> None:
            calls.append(asyncio.create_task(fleet.call(self._plan(clips, len(calls)), longest_s)))

        try:
            dial()
            if self._name in plan.alone:
                await asyncio.sleep(plan.settle_bare_s)
                await self._window(fleet, 1, plan.alone_s if bare else window_s, calls)
            for _ in range(1, plan.sessions):
                dial()
                await asyncio.sleep(_COME_S / plan.sessions)
            await asyncio.sleep(settle_s)
            await self._window(fleet, plan.sessions, window_s, calls)
        finally:
            for number in range(1, len(calls) + 1):
                fleet.hang_up(number)
            _, late = await asyncio.wait(calls, timeout=10.0)
            for call in late:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

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
        rows = list(_frames(self._frames))
        for window in self._windows:
            late = [ms for at, ms in rows if window.begin_s <= at <= window.end_s]
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
                    frames=len(late),
                    jitter_p99_ms=percentile(late, 0.99),
                    send_late_ms=window.late_ms,
                    core_b=used["load"],
                    others_a=max(0.0, used["a"] - used["gateway"]) if self._apart else math.nan,
                    others_b=max(0.0, used["b"] - used["ours"]) if self._apart else math.nan,
                )
            )
        return found


def _frames(path: Path) -> Iterator[tuple[float, float]]:
    """(UNIX s, ms late) of each frame that came."""
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                yield float(row["t"]), float(row["late_ms"])
    except FileNotFoundError:
        return


class ThreadMeter:
    """CPU seconds of a process by its threads: the first one, the detector's, all others. What a thread used
    after the last look before it ended is lost."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._pid = pid
        self._last: dict[int, int] = {}
        self._used = [0.0, 0.0, 0.0]
        self._kinds: dict[int, int] = {}

    def begin(self) -> None:
        """From now on."""
        self.look()
        self._used = [0.0, 0.0, 0.0]

    def look(self) -> list[float]:
        """[event loop, detector, others], s since `begin`."""
        for task in self._tasks.iterdir():
            number = int(task.name)
            try:
                ran = int((task / "schedstat").read_text().split()[0])
                if number not in self._kinds:
                    self._kinds[number] = self._kind(task)
            except (OSError, IndexError):
                continue  # it has ended
            self._used[self._kinds[number]] += (ran - self._last.get(number, 0)) / 1e9
            self._last[number] = ran
        return list(self._used)

    def _kind(self, task: Path) -> int:
        if int(task.name) == self._pid:
            return 0
        return (
            1 if _nice(task) > _nice(self._tasks / str(self._pid)) else 2
        )  # the detector runs below the rest


def _nice(task: Path) -> int:
    return int((task / "stat").read_text().rpartition(")")[2].split()[16])
