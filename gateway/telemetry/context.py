"""What a task works for: a session, a turn, a trace. Named in its log lines, and sent along with its calls.

Trace context is W3C's (https://www.w3.org/TR/trace-context/): `traceparent` and `tracestate`, as HTTP headers
and as gRPC metadata. Session and turn go to speech services as metadata of our own, so that their log
lines can be joined to ours; services that do not know them pass over them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol

SESSION_KEY, TURN_KEY = "x-parley-session", "x-parley-turn"
TRACE_KEYS = ("traceparent", "tracestate")

Pairs = tuple[tuple[str, str], ...]

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[\x20-\x7e]{1,512}")
_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
"""A session or turn as others may call it; anything else is no name, and goes into no log line."""


class Spot(Protocol):
    """A place in a trace."""

    @property
    def carrier(self) -> Pairs:
        """What a call made here carries along."""
        ...

    def start(self, name: str, at_s: float | None = None, **attributes: Any) -> Spot:
        """A place inside of this one, for what is asked of another. at_s: the loop's time; None: now."""
        ...

    def note(self, **attributes: Any) -> None: ...

    def end(self, at_s: float | None = None, *, error: str = "") -> None:
        """Once. error: what failed, a sentence without secrets."""
        ...


class Passed:
    """A caller's own place, handed on as it came: nothing is recorded here."""

    __slots__ = ("carrier",)

    def __init__(self, carrier: Pairs) -> None:
        self.carrier = carrier

    def start(self, name: str, at_s: float | None = None, **attributes: Any) -> Spot:
        return self

    def note(self, **attributes: Any) -> None:
        pass

    def end(self, at_s: float | None = None, *, error: str = "") -> None:
        pass


session_id: ContextVar[str] = ContextVar("session_id", default="")
"""The session that the current task works for; tasks inherit it."""
client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Of the client that the current task works for; tasks inherit it."""
turn_id: ContextVar[str] = ContextVar("turn_id", default="")
"""The turn that the current task works for; tasks inherit it."""
spot: ContextVar[Spot | None] = ContextVar("spot", default=None)
"""The place in a trace that the current task's calls belong to; tasks inherit it."""


def trace_carrier() -> Pairs:
    """The trace context for a call that is made now; empty outside of a trace."""
    here = spot.get()
    return here.carrier if here is not None else ()


def call_context() -> Pairs:
    """gRPC metadata for a call to a speech service: session, turn and trace, as far as there are any."""
    pairs = trace_carrier()
    if turn := turn_id.get():
        pairs = ((TURN_KEY, turn), *pairs)
    if session := session_id.get():
        pairs = ((SESSION_KEY, session), *pairs)
    return pairs


def trace_id_of_now() -> str:
    """32 hex digits; empty outside of a trace."""
    here = spot.get()
    return here.carrier[0][1][3:35] if here is not None and here.carrier else ""


@contextmanager
def asking(name: str, **attributes: Any) -> Iterator[None]:
    """Around a call to another, in a traced task: what it carries along is a place of its own."""
    inside = spot.get()
    if inside is None:
        yield
        return
    span = inside.start(name, **attributes)
    spot.set(span)
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        span.note(cancelled=True)
        raise
    except Exception as error:
        span.end(error=str(error) or type(error).__name__)
        raise
    finally:
        span.end()
        spot.set(inside)


def read_trace(pairs: Iterable[tuple[str, str | bytes]]) -> Pairs:
    """The trace context among headers or metadata; empty where there is none, or none that is well formed."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if (name := key.lower()) in TRACE_KEYS and isinstance(value, str):
            # several of one name are one list, as in HTTP: allowed of tracestate, and no parent is two
            found[name] = f"{found[name]},{value.strip()}" if name in found else value.strip()
    if not found or not _PARENT.fullmatch(parent := found.get("traceparent", "")):
        return ()
    state = found.get("tracestate", "")
    carrier: Pairs = (("traceparent", parent),)
    return (*carrier, ("tracestate", state)) if _STATE.fullmatch(state) else carrier


def read_ids(pairs: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """(session, turn) of whoever calls, as metadata has them; "" for what is not there or is no name."""
    found = {key: value for key, value in pairs if key in (SESSION_KEY, TURN_KEY)}
    if not found:
        return "", ""
    session, turn = (str(found.get(key, "")) for key in (SESSION_KEY, TURN_KEY))
    return session if _NAME.fullmatch(session) else "", turn if _NAME.fullmatch(turn) else ""


def context_of(session: str) -> Context:
    """A context that a session's tasks and timers run in, whoever makes them."""
    context = copy_context()
    for variable, value in ((session_id, session), (turn_id, "")):
        context.run(variable.set, value)
    context.run(spot.set, None)
    return context
