"""One model on one Triton as this process sees it: its state, its versions, who holds them here."""

from __future__ import annotations

import asyncio
from collections import Counter

from gateway.triton.manager.types import NotNow, State, Why

_NEXT: dict[State, frozenset[State]] = {
    State.ABSENT: frozenset({State.LOADING, State.READY, State.UNLOADING, State.FAILED}),
    State.LOADING: frozenset({State.READY, State.FAILED, State.ABSENT}),
    State.READY: frozenset({State.DRAINING, State.UNLOADING, State.ABSENT, State.FAILED}),
    State.DRAINING: frozenset({State.READY, State.UNLOADING, State.ABSENT}),
    State.UNLOADING: frozenset({State.ABSENT, State.READY}),
    State.FAILED: frozenset({State.LOADING, State.READY, State.ABSENT}),
}


class IllegalTransition(RuntimeError):
    """A bug of the manager's: what it was about to do makes no sense in that state."""


class Model:
    """Changed on the event loop only. Whoever loads, unloads or repairs it has `lock` meanwhile."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.ABSENT
        self.lock = asyncio.Lock()
        self.job: asyncio.Task[None] | None = None
        """The load that goes on, which all who want the model wait for."""
        self.repair: asyncio.Task[bool] | None = None
        self.versions: tuple[str, ...] = ()
        """Those that answer, ascending."""
        self.serving = ""
        """The one of them that new leases get."""
        self.retiring: dict[str, asyncio.Task[None]] = {}
        """Versions that nobody gets any more, with who waits for their last lease."""
        self.evicting = False
        """It goes because nobody uses it: whoever wants it now waits a moment and has it loaded again."""
        self.why: Why | None = None
        self.pinned = False
        """The default or a preload: neither TTL nor caps unload it."""
        self.reason = ""
        self.failures = 0
        """Loads that failed in a row."""
        self.retry_at = 0.0
        """When the back-off ends; the event loop's time, like all times here."""
        self.begun = 0.0
        """When its load began."""
        self.since = 0.0
        """When it became resident."""
        self.used = 0.0
        """When its last lease here ended, or it was loaded."""
        self.load_s = 0.0
        """What its last load took."""
        self._leases: Counter[str] = Counter()
        self._changed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.state} {'/'.join(self.versions)} leases={self.leases}>"

    @property
    def leases(self) -> int:
        """Of this process, all versions together."""
        return self._leases.total()

    def leases_of(self, version: str) -> int:
        return self._leases[version]

    def is_in(self, *states: State) -> bool:
        """As it is now: what was true before an await may not be."""
        return self.state in states

    @property
    def settled(self) -> bool:
        """Ready, and nobody is about to change it here."""
        return self.state is State.READY and not self.lock.locked()

    def refusal(self, now: float) -> NotNow | None:
        """Why it is not loaded now: its last load failed a moment ago."""
        wait_s = self.retry_at - now
        if self.state is not State.FAILED or wait_s <= 0:
            return None
        return NotNow(f"{self.reason} (tried again in {wait_s:.0f} s)", wait_s=wait_s)

    def to(self, state: State, reason: str = "") -> None:
        """Raises: IllegalTransition."""
        if state not in _NEXT[self.state]:
            raise IllegalTransition(f"{self.name}: from {self.state} to {state}")
        self.state, self.reason = state, reason
        if state in (State.ABSENT, State.FAILED, State.LOADING):
            self.versions, self.serving = (), ""
        if state is State.ABSENT:
            self.why = None
        self._notify()

    def resident_since(self, now: float, versions: tuple[str, ...], serving: str) -> None:
        """It is ready, with these versions."""
        self.to(State.READY)
        self.versions, self.serving = versions, serving
        self.since = self.used = now

    def serve(self, versions: tuple[str, ...], serving: str) -> None:
        """While ready: versions came or went."""
        self.versions, self.serving = versions, serving
        self._notify()

    def take(self, version: str) -> None:
        self._leases[version] += 1

    def give(self, version: str, now: float) -> None:
        """Raises: IllegalTransition for one that was not taken."""
        if self._leases[version] <= 0:
            raise IllegalTransition(f"{self.name}: a lease of version {version} ends that never began")
        self._leases[version] -= 1
        if not self._leases[version]:
            del self._leases[version]
        self.used = now
        self._notify()

    async def changed(self, within_s: float | None = None) -> None:
        """Until its state, its versions or its leases change, or the time is over."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._changed}, timeout=within_s)

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)
