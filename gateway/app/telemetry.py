"""Traces and the loop's watch, as every service of Parley has them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.settings import Settings, TelemetrySettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.identity import Identity
    from gateway.telemetry.draining import Drain
    from gateway.telemetry.loop_watch import LoopWatch
    from gateway.telemetry.process_metrics import LoopMetrics, ProcessMetrics
    from gateway.telemetry.tracing import Tracing

BEAT_S = 0.05


def tell_of(
    settings: Settings,
    registry: CollectorRegistry,
    process: ProcessMetrics,
    identity: Identity | None,
    drain: Drain | None,
) -> None:
    """What a service's parts tell of themselves, on its page: certificates, refusals of callers, the drain."""
    from gateway.telemetry.certificates import CertificateExpiry

    chains = {
        "listeners": settings.tls.cert,
        "asr": settings.asr.tls.cert,
        "llm": settings.llm.tls.cert,
        "tts": settings.tts.tls.cert,
        "triton": settings.triton.tls.cert,
    }
    registry.register(CertificateExpiry({of: path for of, path in chains.items() if path is not None}))
    if identity is not None:
        identity.on_denied = process.auth_refused
    if drain is not None:
        process.watch_drain(lambda: drain.begun and not drain.over, drain.overdue_s)


def open_tracing(settings: TelemetrySettings, service: str, process: ProcessMetrics) -> Tracing | None:
    """None without a collector: then nothing of OpenTelemetry is imported. service: "gateway", "speech"."""
    if not settings.otlp:
        return None
    from gateway.telemetry.process_metrics import parley_version
    from gateway.telemetry.tracing import Tracing

    return Tracing(
        settings.otlp,
        service=f"parley-{service}",
        instance=f"{socket.gethostname()}:{os.getpid()}",
        version=parley_version(),
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        sample=settings.sample,
        count=process.spans,
    )


def watch_loop(
    settings: TelemetrySettings,
    metrics: LoopMetrics,
    on_beat: Callable[[float, float], None] = lambda lag_s, busy_s: None,
) -> LoopWatch:
    """Started, on the running loop. on_beat: beside the metrics."""
    from gateway.telemetry.loop_watch import LoopWatch

    loop = asyncio.get_running_loop()
    metrics.watch_tasks(lambda: len(asyncio.all_tasks(loop)))

    def beat(lag_s: float, busy_s: float) -> None:
        metrics.beat(lag_s, busy_s)
        on_beat(lag_s, busy_s)

    watch = LoopWatch(BEAT_S, beat, stall_s=settings.stall_ms / 1000, on_stall=metrics.stalled)
    watch.start()
    return watch
