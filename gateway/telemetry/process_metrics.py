"""What every process of Parley tells of itself. Tables: docs/reference/metrics.md."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from gateway.telemetry.certificates import NAME as CERTIFICATES

LAG_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
DENIALS = (
    "missing", "unknown", "expired", "revoked", "token", "issuer", "audience", "scope", "limit", "unavailable",
)  # fmt: skip
"""The reasons of `gateway.identity.caller.Denied`."""
PROCESS_PEAKS = frozenset(
    {
        "parley_build_info",
        "parley_draining",
        "parley_drain_overdue_seconds",
        CERTIFICATES,
        "process_start_time_seconds",
        "process_max_fds",
    }
)
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
        self._denied = Counter(
            "parley_auth_refused", "Calls whose credential was not good enough", ["reason"], registry=registry
        )
        for reason in DENIALS:
            self._denied.labels(reason)
        self._draining = Gauge("parley_draining", "1 while this process is being drained", registry=registry)
        self._overdue = Gauge(
            "parley_drain_overdue_seconds",
            "How long a drain has gone on beyond its grace",
            registry=registry,
        )

    def auth_refused(self, reason: str) -> None:
        """Counts a call that was not let in. reason: one of `gateway.identity.caller.Reason`."""
        self._denied.labels(reason).inc()

    def watch_drain(self, draining: Callable[[], bool], overdue_s: Callable[[], float]) -> None:
        """Has both read whenever the metrics are."""
        self._draining.set_function(lambda: float(draining()))
        self._overdue.set_function(overdue_s)

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
