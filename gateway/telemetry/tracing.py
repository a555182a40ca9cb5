"""Traces over OTLP/HTTP: one per turn, with a span of its session as link; one per request of a service.

Nothing here waits for a collector: spans go into a queue, a thread of the SDK's sends them, and what
cannot be sent is counted and said once a minute. Without a collector nothing of this is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.telemetry.context import Pairs, Passed, Spot
from gateway.telemetry.spans import ROOT, SessionTrace, Span

log = logging.getLogger(__name__)

_QUEUE, _BATCH = 4_096, 512
_DELAY_MS = 1_000
_EXPORT_S = 5.0
"""Tries of one batch, all together."""
_FLUSH_S, _CLOSE_S = 1.5, 2.0
"""What the end of the process waits for the last spans, and for all of this."""
_QUIET_S = 60.0
_CLOCK_S = 60.0
_PATH = "/v1/traces"


class Tracing:
    """One per process, made on its event loop; `close()` once."""

    def __init__(
        self,
        endpoint: str,
        *,
        service: str,
        instance: str,
        version: str,
        headers: Mapping[str, str] | None = None,
        sample: float = 1.0,
        count: Callable[[str, int], None] = lambda outcome, spans: None,
    ) -> None:
        """endpoint: of an OTLP/HTTP collector, with or without `/v1/traces`. headers: sent along, secret.
        sample: share of what begins here that is traced; a caller's own decision goes before it.
        count: told "exported", "failed" or "overflow", and how many spans; called from any thread.
        Raises ValueError for an endpoint that is none."""
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"telemetry.otlp is no http:// or https:// address of a collector: {_shown(endpoint)}"
            )
        # The SDK would log each failure, with what the server said, and requests its own retries.
        for chatty in ("opentelemetry", "urllib3"):
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        url = endpoint if parts.path.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
        self._sample = sample
        self._clock = _WallClock()
        sent = OTLPSpanExporter(endpoint=url, headers=dict(headers or {}), timeout=_EXPORT_S)
        self._exporter = _Counting(sent, _shown(endpoint), count)
        self._processor = _Bounded(self._exporter)
        resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": "parley",
                "service.instance.id": instance,
                "service.version": version,
            }
        )
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("parley", version)

    def session(self, session_id: str, caller: Pairs) -> SessionTrace | None:
        """The trace of a conversation, with its own for each turn; None where it is not sampled."""
        parent = _parent(caller)
        if not self._wanted(caller):
            return None
        clock = self._clock.now()
        attributes = {"parley.session_id": session_id}
        span = self._tracer.start_span(
            "session", parent or ROOT, SpanKind.SERVER, attributes, start_time=clock(loop_now())
        )
        return SessionTrace(self._tracer, clock, session_id, Span(self._tracer, clock, span))

    def request(self, name: str, caller: Pairs, attributes: Mapping[str, Any]) -> Spot | None:
        """The span of one request to a service of ours, a `Span` to be ended; where it is not sampled, what
        its calls carry along."""
        if not self._wanted(caller):
            return Passed(caller) if caller else None
        clock = self._clock.now()
        span = self._tracer.start_span(
            name, _parent(caller) or ROOT, SpanKind.SERVER, attributes, start_time=clock(loop_now())
        )
        return Span(self._tracer, clock, span)

    async def close(self) -> None:
        """Sends what is left, as far as that is quick."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            flushing = threading.Thread(target=self._processor.force_flush, daemon=True)
            flushing.start()
            flushing.join(_FLUSH_S)
            self._exporter.shutdown()  # first: it ends the wait between two tries
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):  # the loop did not wait so long
                loop.call_soon_threadsafe(done.cancel)

        threading.Thread(target=finish, name="last spans", daemon=True).start()
        await asyncio.wait([done], timeout=_CLOSE_S)

    def _wanted(self, caller: Pairs) -> bool:
        if caller:
            return bool(int(caller[0][1][-2:], 16) & 1)
        return self._sample >= 1 or random.random() < self._sample


class _Bounded(BatchSpanProcessor):
    """The SDK's, which drops the oldest span of a full queue, and tells only its log."""

    def __init__(self, exporter: _Counting) -> None:
        super().__init__(
            exporter,
            max_queue_size=_QUEUE,
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH,
        )
        self._counting = exporter

    def on_end(self, span: ReadableSpan) -> None:
        self._counting.queued()
        super().on_end(span)


class _Counting(SpanExporter):
    """Counts what is sent and what is lost."""

    def __init__(self, inner: SpanExporter, address: str, count: Callable[[str, int], None]) -> None:
        self._inner, self._address, self._count = inner, address, count
        self._waiting = 0
        self._lost = 0
        self._said_at = -_QUIET_S
        self._lock = threading.Lock()
        self._closed = False

    def queued(self) -> None:
        with self._lock:
            if self._waiting < _QUEUE:
                self._waiting += 1
                return
        self._lose("overflow", 1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._waiting = max(0, self._waiting - len(spans))
        try:
            result = SpanExportResult.FAILURE if self._closed else self._inner.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._count("exported", len(spans))
        else:
            self._lose("failed", len(spans))
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._inner.shutdown()

    def _lose(self, outcome: str, spans: int) -> None:
        self._count(outcome, spans)
        with self._lock:
            self._lost += spans
            now = time.monotonic()
            if now - self._said_at < _QUIET_S:
                return
            self._said_at, lost, self._lost = now, self._lost, 0
        log.warning(
            "the trace collector at %s takes no spans: %d dropped; start it, or correct PARLEY_TELEMETRY__OTLP",
            self._address,
            lost,
        )


class _WallClock:
    """The running loop's time as nanoseconds since 1970.

    The loop's clock stands still while a callback runs, so that what is read of both is apart by chance: the
    smallest distance of a minute is the true one, and beyond that the system's clock may have been set.
    """

    def __init__(self) -> None:
        self._since_s = float("-inf")
        self._offset = 0

    def now(self) -> Callable[[float], int]:
        """For one conversation or request: within it, times keep their distances."""
        now_s = loop_now()
        read = time.time_ns() - int(now_s * 1e9)
        if now_s - self._since_s > _CLOCK_S:
            self._since_s, self._offset = now_s, read
        offset = self._offset = min(self._offset, read)
        return lambda at_s: offset + int(at_s * 1e9)


def loop_now() -> float:
    return asyncio.get_running_loop().time()


def _parent(caller: Pairs) -> Context | None:
    return TraceContextTextMapPropagator().extract(dict(caller), ROOT) if caller else None


def _shown(endpoint: str) -> str:
    """Without what may be secret."""
    parts = urlsplit(endpoint)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"
