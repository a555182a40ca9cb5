"""Metrics of the speech process beside those of its models. Tables: docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge

KINDS = ("asr", "tts")


class SpeechMetrics:
    """One per process and registry."""

    def __init__(self, registry: CollectorRegistry, *, max_streams: int) -> None:
        """max_streams: calls of all kinds that the process takes at a time."""
        self._active = Gauge(
            "parley_speech_streams_active",
            "Calls open now: recognition (asr), synthesis (tts)",
            ["kind"],
            registry=registry,
        )
        Gauge(
            "parley_speech_streams_capacity",
            "Calls that are taken at a time, of all kinds",
            registry=registry,
        ).set(max_streams)
        self.open = 0
        """Calls of all kinds."""
        for kind in KINDS:  # there from the start: nothing and no answer are different things
            self._active.labels(kind)

    @contextmanager
    def stream(self, kind: str) -> Iterator[None]:
        """For the length of one call. kind: one of KINDS."""
        gauge = self._active.labels(kind)
        gauge.inc()
        self.open += 1
        try:
            yield
        finally:
            gauge.dec()
            self.open -= 1
