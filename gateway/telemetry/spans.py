"""Spans as the session and the services use them: times are the event loop's, seconds.

A span that is made here can be ended at any time after, and given any time before: what a reply's
stages were is known when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer

from gateway.telemetry.context import Pairs

Clock = Callable[[float], int]
ROOT = Context()
"""No parent: what the SDK would take from its own context is nobody's."""


class Span:
    """A `Spot` that records."""

    __slots__ = ("_clock", "_context", "_ended", "_span", "_tracer", "carrier")

    def __init__(self, tracer: Tracer, clock: Clock, span: otel.Span) -> None:
        self._tracer, self._clock, self._span = tracer, clock, span
        self._context = otel.set_span_in_context(span, ROOT)
        self._ended = False
        of = span.get_span_context()
        parent = f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"
        state = of.trace_state.to_header() if of.trace_state else ""
        self.carrier: Pairs = (("traceparent", parent), *((("tracestate", state),) if state else ()))

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.carrier[0][1][3:35]

    def start(self, name: str, at_s: float | None = None, **attributes: Any) -> Span:
        """A span inside of this one: something that is asked of another."""
        return self._child(name, at_s, SpanKind.CLIENT, attributes)

    def add(self, name: str, from_s: float, to_s: float, **attributes: Any) -> None:
        """A span inside of this one that is over already. An end before its beginning counts as no time."""
        self._child(name, from_s, SpanKind.INTERNAL, attributes).end(max(from_s, to_s))

    def note(self, **attributes: Any) -> None:
        self._span.set_attributes(_named(attributes))

    def event(self, name: str, at_s: float | None = None, **attributes: Any) -> None:
        self._span.add_event(name, _named(attributes), self._at(at_s))

    def end(self, at_s: float | None = None, *, error: str = "") -> None:
        """Once; later calls do nothing. error: what failed, a sentence without secrets."""
        if self._ended:
            return
        self._ended = True
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(self._at(at_s))

    def _child(self, name: str, at_s: float | None, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        span = self._tracer.start_span(
            name, self._context, kind, _named(attributes), start_time=self._at(at_s)
        )
        return Span(self._tracer, self._clock, span)

    def _at(self, at_s: float | None) -> int:
        return self._clock(asyncio.get_running_loop().time() if at_s is None else at_s)


class SessionTrace:
    """Of one conversation: a span as long as it is, and a trace of its own for each turn."""

    def __init__(self, tracer: Tracer, clock: Clock, session_id: str, span: Span) -> None:
        self._tracer, self._clock, self._session_id = tracer, clock, session_id
        self.span = span
        self._open: set[TurnTrace] = set()

    def turn(self, turn_id: str, at_s: float, name: str = "turn") -> TurnTrace:
        """at_s: when the user began to speak, or the words came."""
        span = self._tracer.start_span(
            name,
            ROOT,
            SpanKind.SERVER,
            _named({"session_id": self._session_id, "turn_id": turn_id}),
            links=[Link(self.span._span.get_span_context())],
            start_time=self._clock(at_s),
        )
        made = TurnTrace(self._tracer, self._clock, span, at_s, self._open.discard)
        self._open.add(made)
        return made

    def end(self, reason: str) -> None:
        """What is still open ends where the last thing in it did."""
        for turn in list(self._open):
            turn.close("session_ended")
        self.span.note(close_reason=reason)
        self.span.end()


class TurnTrace(Span):
    """The root of a turn's trace."""

    __slots__ = ("_last_s", "_on_end")

    def __init__(
        self, tracer: Tracer, clock: Clock, span: otel.Span, at_s: float, on_end: Callable[[TurnTrace], None]
    ) -> None:
        super().__init__(tracer, clock, span)
        self._last_s, self._on_end = at_s, on_end

    def add(self, name: str, from_s: float, to_s: float, **attributes: Any) -> None:
        super().add(name, from_s, to_s, **attributes)
        self._last_s = max(self._last_s, from_s, to_s)

    def close(self, outcome: str, at_s: float | None = None, *, error: str = "", **attributes: Any) -> None:
        """The turn is over; once. at_s: None takes the end of what was added last."""
        if self._ended:
            return
        self.note(outcome=outcome, **attributes)
        self.end(self._last_s if at_s is None else at_s, error=error)
        self._on_end(self)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    """Ours by our name; those of OpenTelemetry's conventions have dots already."""
    return {
        name if "." in name else f"parley.{name}": value
        for name, value in attributes.items()
        if value is not None
    }
