"""What every process of Parley tells of itself. Tables: docs/reference/metrics.md."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

LAG_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
PROCESS_PEAKS = frozenset({"parley_build_info", "process_start_time_seconds", "process_max_fds"})
"""Of several processes, the largest counts."""


def parley_version() -> str:
    """As installed; "unknown" in a bare checkout."""
    try:
        return version("parley")
    except PackageNotFoundError:
        return "unknown"


class ProcessMetrics:
    """One per process and registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        build = Gauge("parley_build_info", "1; what runs here", ["version", "python"], registry=registry)
        build.labels(parley_version(), platform.python_version()).set(1)
        self._spans = Counter(
            "parley_spans",
            "Spans by what became of them: exported, failed (the collector took none), overflow (too many waited)",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("exported", "failed", "overflow"):
            self._spans.labels(outcome)

    def spans(self, outcome: str, count: int) -> None:
        """Counts spans that left, or never will. From any thread."""
        self._spans.labels(outcome).inc(count)


class LoopMetrics:
    """Of the event loop that serves; one per process and registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "parley_loop_lag_seconds",
            "How late the event loop runs its timers, looked at 20 times a second",
            buckets=LAG_BUCKETS_S,
            registry=registry,
        )
        self._busy = Counter(
            "parley_loop_busy_seconds",
            "Time in which the event loop's thread ran, or waited for a core to run on",
            registry=registry,
        )
        self._stalls = Counter(
            "parley_loop_stalls",
            "Times the event loop stood still for telemetry.stall_ms or longer",
            registry=registry,
        )
        self._tasks = Gauge(
            "parley_tasks", "asyncio tasks: a number that only grows is a leak", registry=registry
        )

    def beat(self, lag_s: float, busy_s: float) -> None:
        """One reading of how late the event loop is, and how long it was busy since the last one."""
        self._lag.observe(lag_s)
        self._busy.inc(max(0.0, busy_s))

    def stalled(self) -> None:
        """Counts a stall when it is over."""
        self._stalls.inc()

    def watch_tasks(self, tasks: Callable[[], int]) -> None:
        """Has the number of asyncio tasks read whenever the metrics are."""
        self._tasks.set_function(tasks)
