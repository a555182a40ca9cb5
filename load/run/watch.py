"""One line of levels a second: sessions, CPU, memory, the detector's backlog."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TextIO

import aiohttp

from load.report.data import TIMELINE
from load.run import usage
from load.run.gauges import gauges

_ASK_S = 0.8
EVERY_S = 1.0

Row = dict[str, float | None]


class Watch:
    """`async with Watch(FILE, …):` writes until it ends. Roots are pids; 0: there is none."""

    def __init__(
        self,
        path: Path,
        *,
        gateway: int = 0,
        emulators: int = 0,
        locust: Callable[[], int] = lambda: 0,
        metrics: str = "",
        callers: Callable[[], tuple[float | None, float | None]] = lambda: (None, None),
        core_a: Collection[int] = (),
        core_b: Collection[int] = (),
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        """metrics: URL of the gateway's page; callers: their number and send lateness, ms, now;
        on_row: sees every line."""
        self._path = path
        self._gateway, self._emulators, self._locust = gateway, emulators, locust
        self._metrics = metrics
        self._callers = callers
        self._core_a, self._core_b = set(core_a), set(core_b)
        self._task: asyncio.Task[None] | None = None
        self._on_row = on_row

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with self._path.open("w", newline="") as file:
            async with aiohttp.ClientSession() as session:
                await self._lines(loop, session, file)

    async def _lines(
        self, loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession, file: TextIO
    ) -> None:
        writer = csv.DictWriter(file, TIMELINE)
        writer.writeheader()
        meters = {role: usage.CpuMeter() for role in ("gateway", "callers", "emulators", "locust")}
        before, due = self._look(meters)[0], loop.time()
        last = loop.time()
        while True:
            due += EVERY_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            used, rss = self._look(meters)
            passed, last = loop.time() - last, loop.time()
            rates = {key: (used[key] - before[key]) / passed for key in used if key in before}
            before = used
            row: Row = {"t_s": round(time.time(), 3), "gateway_rss_mb": rss}
            for role in meters:
                row[f"{role}_cpu"] = rates.get(role)
            row |= self._others(rates)
            count, late = self._callers()
            row |= {"sessions": count, "send_late_p99_ms": late}
            if self._metrics:
                row |= await gauges(self._metrics, session, _ASK_S)
            writer.writerow({key: _text(row.get(key)) for key in TIMELINE})
            file.flush()
            self._on_row(row)

    def _look(self, meters: dict[str, usage.CpuMeter]) -> tuple[dict[str, float], float | None]:
        """CPU seconds so far by role and by core ("core 0"), and the gateway's memory."""
        roots = {"gateway": self._gateway, "emulators": self._emulators, "locust": self._locust()}
        trees = usage.trees([pid for pid in roots.values() if pid])
        pids = {role: trees.get(root, set()) for role, root in roots.items()}
        pids["callers"] = {pid for pid in pids["locust"] if usage.is_caller(pid)}
        pids["locust"] = pids["locust"] - pids["callers"]
        used = {
            role: meter.look(pids[role]) for role, meter in meters.items() if role == "callers" or roots[role]
        }
        used |= {f"core {core}": busy for core, busy in usage.cores_busy_s().items()}
        return used, usage.rss_mb(pids["gateway"]) if self._gateway else None

    def _others(self, rates: dict[str, float]) -> dict[str, float | None]:
        """What programs that are not ours used of our cores; only where ours are kept apart."""
        if self._core_a & self._core_b:
            return {}
        found: dict[str, float | None] = {}
        ours = {"core_a": ("gateway",), "core_b": ("callers", "emulators", "locust")}
        for name, cores in (("core_a", self._core_a), ("core_b", self._core_b)):
            if cores:
                busy = sum(rates.get(f"core {core}", 0.0) for core in cores)
                own = sum(rates.get(role, 0.0) for role in ours[name])
                found[f"{name}_other"] = max(0.0, busy - own) / len(cores)
        return found


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")
