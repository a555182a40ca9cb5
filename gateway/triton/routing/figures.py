"""What this process itself has seen of each model on each server: requests in flight, first chunks, failures."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import TracebackType

_KEPT = 200
"""First chunks remembered per model and server."""
_FORGET_S = 600.0
_UNWELL_S = 5.0
"""How long a model that failed is the last choice, unless it answers meanwhile."""


@dataclass(frozen=True, slots=True)
class Load:
    """Of one model on one server, now."""

    queue: int = 0
    """Requests of this process that are in flight, or what the model says waits in it where that is more."""
    p50_s: float | None = None
    """First chunk after the request; None: not measured within the last 10 minutes."""
    p95_s: float | None = None
    failures: int = 0
    """Within the last 10 minutes, at most 200."""
    unwell: bool = False
    """It failed within the last 5 s and has answered nothing since."""


IDLE = Load()


class Figures:
    """Of all models on all servers. `figures.of(server, model).request()` around every request."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """clock: seconds; the running loop's by default."""
        self._clock = clock or _loop_s
        self._known: dict[tuple[str, str], Figure] = {}
        self.on_first: Callable[[str, float], None] = lambda model, seconds: None
        """Told each first chunk: model, and seconds after the request."""
        self._swept_s = float("-inf")

    def __len__(self) -> int:
        return len(self._known)

    def of(self, server: str, model: str) -> Figure:
        """Kept as long as requests are in flight, and 10 minutes after the last."""
        found = self._known.get((server, model))
        if found is None:
            self._sweep()
            found = self._known[server, model] = Figure(self._clock, partial(self._on_first, model))
        return found

    def load(self, server: str, model: str) -> Load:
        found = self._known.get((server, model))
        return IDLE if found is None else found.load()

    def _on_first(self, model: str, seconds: float) -> None:
        self.on_first(model, seconds)

    def forget_server(self, server: str) -> None:
        """What was measured says nothing about what may come back at this address."""
        self._known = {key: one for key, one in self._known.items() if key[0] != server or one.in_flight}

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_s >= _FORGET_S / 10:
            self._swept_s = now
            self._known = {key: one for key, one in self._known.items() if not one.stale(now)}


class Figure:
    """Of one model on one server."""

    __slots__ = (
        "_at",
        "_clock",
        "_count",
        "_failed",
        "_lasted",
        "_on_first",
        "_p",
        "_p_until",
        "_used_s",
        "in_flight",
        "told",
    )

    def __init__(
        self, clock: Callable[[], float], on_first: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._clock, self._on_first = clock, on_first
        self.in_flight = 0
        self.told = 0
        """Requests that wait in the model, all callers together, as it said last."""
        self._lasted = array("d", bytes(8 * _KEPT))
        self._at = array("d", bytes(8 * _KEPT))
        self._count = 0
        self._failed: deque[float] = deque(maxlen=_KEPT)
        self._used_s = clock()
        self._p: tuple[float | None, float | None] = (None, None)
        self._p_until = float("inf")
        """When the oldest of what `_p` counts is forgotten; -inf: there are new ones."""

    def request(self) -> Request:
        """`with figure.request() as request:` around one request, `request.answered()` at each chunk."""
        return Request(self, self._clock())

    def load(self) -> Load:
        now = self._clock()
        p50, p95 = self._percentiles(now)
        failed = self._failed
        while failed and now - failed[0] >= _FORGET_S:
            failed.popleft()
        last = self._at[(self._count - 1) % _KEPT] if self._count else float("-inf")
        unwell = bool(failed) and now - failed[-1] < _UNWELL_S and last <= failed[-1]
        return Load(max(self.in_flight, self.told), p50, p95, len(failed), unwell)

    def stale(self, now: float) -> bool:
        return not self.in_flight and now - self._used_s >= _FORGET_S

    def _percentiles(self, now: float) -> tuple[float | None, float | None]:
        if now >= self._p_until:
            held = range(min(self._count, _KEPT))
            young = [i for i in held if now - self._at[i] < _FORGET_S]
            lasted = sorted(self._lasted[i] for i in young)
            self._p_until = min((self._at[i] for i in young), default=float("inf")) + _FORGET_S
            self._p = (_nearest(lasted, 0.5), _nearest(lasted, 0.95)) if lasted else (None, None)
        return self._p

    def _begun(self) -> None:
        self.in_flight += 1

    def _first(self, begun_s: float) -> None:
        now = self._clock()
        place = self._count % _KEPT
        self._lasted[place], self._at[place] = now - begun_s, now
        self._count += 1
        self._p_until = float("-inf")
        self._on_first(now - begun_s)

    def _ended(self, failed: bool) -> None:
        self.in_flight -= 1
        self._used_s = self._clock()
        if failed:
            self._failed.append(self._used_s)


class Request:
    """One request in flight; an error that leaves the `with` block is a failure, a cancellation is none."""

    __slots__ = ("_begun_s", "_figure", "_waits")

    def __init__(self, figure: Figure, begun_s: float) -> None:
        self._figure = figure
        self._begun_s = begun_s
        self._waits = True

    def answered(self) -> None:
        """A chunk came. Only the first one counts."""
        if self._waits:
            self._waits = False
            self._figure._first(self._begun_s)

    def __enter__(self) -> Request:
        self._figure._begun()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._figure._ended(isinstance(error, Exception))


def _nearest(values: list[float], share: float) -> float:
    return values[ceil(share * len(values)) - 1]


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
