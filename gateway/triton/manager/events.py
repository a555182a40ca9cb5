"""What happens to models, as events: one line each in the log, and plain values for metrics."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.triton.errors import TritonTimeout, TritonUnavailable, first_line

log = logging.getLogger("parley.models")


class Kind(StrEnum):
    LOADING = "loading"
    LOADED = "loaded"
    LOAD_FAILED = "load_failed"
    DRAINING = "draining"
    DRAINED = "drained"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    EVICTED = "evicted"
    """Unloaded by the manager itself: `because` is one of EVICTIONS. Comes in place of `unloaded`."""
    REPAIRED = "repaired"
    """Its process had died; it was loaded again."""
    ROLLING = "rolling"
    ROLLED = "rolled"
    """New leases get `version`; the old one has run out."""
    ROLL_FAILED = "roll_failed"
    """The old version goes on."""
    REFUSED = "refused"
    """A load or an unload that was not begun: `reason` says why."""
    FALLBACK = "fallback"
    """A session that wanted `victim_of` is served by `model` meanwhile."""
    FOUND = "found"
    """It is resident, and somebody else loaded it."""
    LOST = "lost"
    """It was resident and is no more, and we did not unload it."""
    READ_ONLY = "read_only"
    """Triton does not let this process change models: of the server as a whole, `model` is ""."""


EVICTIONS = ("ttl", "count", "memory")
"""Why the manager unloads by itself: idle for too long, too many models, too much memory."""


class Cause(StrEnum):
    """Of a failed load, for counting: few, and never a model's own words."""

    MISSING = "missing"
    """No such model, or a file of it is not there."""
    CONFIG = "config"
    """config.pbtxt is refused, or does not fit what the model is."""
    CODE = "code"
    """The model's own code raised an error."""
    DIED = "died"
    """Its process ended while it was loaded."""
    TIMEOUT = "timeout"
    WARM_UP = "warm_up"
    """It loads, and does not answer its first request."""
    UNAVAILABLE = "unavailable"
    """The server went away."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Event:
    """Fields that do not apply stay as they are, and are in no line."""

    kind: Kind
    model: str = ""
    version: str = ""
    server: str = ""
    """Triton's host:port, where there are several."""
    why: str = ""
    """Why it is resident: a `types.Why`."""
    because: str = ""
    """Why it goes: one of EVICTIONS, "operator", "failed", "shutdown"."""
    cause: str = ""
    """Of a failure: a Cause."""
    victim_of: str = ""
    """The model that room was made for, or that is waited for."""
    seconds: float | None = None
    """What it took."""
    leases: int | None = None
    memory_mb: int | None = None
    reason: str = ""
    """For people, one sentence; last, since it is the only one with spaces."""


OnEvent = Callable[[Event], None]

_FIELDS = (
    "model", "version", "server", "why", "because", "cause", "victim_of", "seconds", "leases", "memory_mb", "reason",
)  # fmt: skip
_MOST_REASON = 1_000
_WARNINGS = frozenset({Kind.LOAD_FAILED, Kind.ROLL_FAILED, Kind.LOST, Kind.READ_ONLY, Kind.REPAIRED})


def fields(event: Event) -> dict[str, str | int | float]:
    """The fields that apply, without `kind`; seconds rounded to the millisecond."""
    found: dict[str, str | int | float] = {name: getattr(event, name) for name in _FIELDS}
    found["reason"] = first_line(event.reason)[:_MOST_REASON]
    if event.seconds is not None:
        found["seconds"] = round(event.seconds, 3)
    return {name: value for name, value in found.items() if value is not None and value != ""}


def to_line(event: Event) -> str:
    """`loaded model=tts_x version=1 seconds=1.2`; values with spaces are quoted as in JSON."""
    return " ".join(
        [event.kind.value, *(f"{name}={_quoted(value)}" for name, value in fields(event).items())]
    )


def log_event(event: Event) -> None:
    """One record: message "model loaded", the fields as `extra`, and `event` with the kind."""
    level = logging.WARNING if event.kind in _WARNINGS else logging.INFO
    words = event.kind.value.replace("_", " ")
    log.log(level, "model %s", words, extra={"event": event.kind.value, **fields(event)})


def cause_of(error: BaseException | str) -> Cause:
    """What kind of failure a load's error is: by its type, then by what Triton is known to say."""
    if isinstance(error, TritonTimeout | TimeoutError):
        return Cause.TIMEOUT
    if isinstance(error, TritonUnavailable):
        return Cause.UNAVAILABLE
    text = str(error).lower()
    return next((cause for cause, pattern in _SAID if pattern.search(text)), Cause.OTHER)


_SAID: tuple[tuple[Cause, re.Pattern[str]], ...] = tuple(
    (cause, re.compile(pattern))
    for cause, pattern in (
        (Cause.WARM_UP, r"warm[- ]?up"),
        (Cause.TIMEOUT, r"timed out|no answer within|after [\d.]+ s\b|deadline"),
        (
            Cause.DIED,
            r"stub process|process (has )?(died|ended|exited)|unexpected(ly)? (exit|end)|killed by|signal",
        ),
        (
            Cause.CONFIG,
            r"config\.pbtxt|data[- ]?type|dtype|unexpected (shape|config)|invalid (config|argument)",
        ),
        (
            Cause.MISSING,
            r"no such (model|file)|not found|does not exist|missing|failed to poll|no module named",
        ),
        (Cause.CODE, r"error|exception|traceback|\.py\b"),
    )
)


def _quoted(value: str | int | float) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if text == "" or re.search(r"[\s\"=\\]", text) else text
