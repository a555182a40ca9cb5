"""What Triton's index and the lease table say, taken over: others load and unload too, and servers restart."""

from __future__ import annotations

import asyncio

from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.leases.types import Change, Record
from gateway.triton.manager import plan
from gateway.triton.manager.core import Core, ready
from gateway.triton.manager.events import Kind
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import State, Why
from gateway.triton.repository import ModelState

_RETRY_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses between looks at a server that does not answer."""


class Reconciler:
    def __init__(self, core: Core, loading: Loading) -> None:
        self._core = core
        self._loading = loading
        self._running: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """One look that began after this was asked for; many callers share it. Raises: TritonError."""
        if self._running is None or self._running.done():
            task = self._running = self._core.spawn(self._look(), "look at triton")
        else:
            if self._again is None or self._again.done():
                self._again = self._core.spawn(self._look_after(self._running), "look at triton")
            task = self._again
        await asyncio.shield(task)

    def look_when_back(self) -> None:
        """The server does not answer: look as soon as it does."""
        if self._waiting is None or self._waiting.done():
            self._waiting = self._core.spawn(self._until_back(), "wait for triton")

    async def _until_back(self) -> None:
        # Nothing tells that a server is back; an outage is the only time at which it is asked.
        tries = 0
        while True:
            await asyncio.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
            tries += 1
            try:
                await self.look()
                return
            except TritonError:
                continue

    async def _look_after(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait({before})
        self._running, self._again = self._again, None
        await self._look()

    async def _look(self) -> None:
        core = self._core
        try:
            before = {name for name, model in core.models.items() if model.lock.locked()}
            states = await core.states()
            records = await core.read_records()
        except TritonError as error:
            if not isinstance(error, TritonTimeout):
                core.reachable = False
            self.look_when_back()
            raise
        core.reachable = True
        for name in [*states, *(one for one in core.models if one not in states)]:
            model = core.model(name)
            # What changed here while we looked is newer than what we saw.
            if not model.lock.locked() and name not in before:
                self._take_over(model, states.get(name, []), records)

    def _take_over(self, model: Model, states: list[ModelState], records: dict[str, Record]) -> None:
        record = records.get(model.name)
        versions = ready({model.name: states}, model.name)
        changing = record.changing if record is not None else None
        self._note_failures(model, record)
        if versions:
            if model.state is State.READY:
                self._versions_came_or_went(model, versions, changing, records)
            elif changing is None:
                self._found(model, versions, record, records)
        elif any(one.state == "UNLOADING" for one in states) and not model.leases:
            if model.state is State.READY:
                model.to(State.UNLOADING)  # by somebody else; its room is taken as long as that takes
        elif model.state in (State.READY, State.DRAINING):
            self._lost(model, states, changing)
        elif changing is Change.LOAD:
            if model.state in (State.ABSENT, State.FAILED):
                model.to(State.LOADING)
        elif model.state in (State.LOADING, State.UNLOADING) and not any(
            one.state in ("LOADING", "UNLOADING") for one in states
        ):
            model.to(State.ABSENT)

    def _note_failures(self, model: Model, record: Record | None) -> None:
        """A load that failed for another process a moment ago fails for us as well."""
        core = self._core
        if record is None or record.failed_s is None or model.state not in (State.ABSENT, State.FAILED):
            return
        left = plan.backoff_s(record.failures, core.settings) - record.failed_s
        if record.failures > model.failures and left > 0:
            model.failures, model.retry_at = record.failures, core.now() + left
            if model.state is State.ABSENT:
                model.to(State.FAILED, record.reason)

    def _versions_came_or_went(
        self, model: Model, versions: tuple[str, ...], changing: Change | None, records: dict[str, Record]
    ) -> None:
        if changing is not None and model.serving in versions:
            # Another process is about it: what it brings is not ready for use before it says so.
            versions = tuple(one for one in model.versions if one in versions)
        serving = self._core.newest_staying(model, versions, records)
        if (versions, serving) != (model.versions, model.serving):
            model.serve(versions, serving)

    def _found(
        self, model: Model, versions: tuple[str, ...], record: Record | None, records: dict[str, Record]
    ) -> None:
        core = self._core
        told = record is not None and record.since_s is not None
        serving = self._core.newest_staying(model, versions, records)
        model.failures, model.retry_at = 0, 0.0
        model.resident_since(core.now(), versions, serving)
        model.why = Why.FOUND
        if record is not None and told:
            model.since = core.now() - (record.since_s or 0.0)
            model.used = core.now() - record.idle_s
            model.why = _why(record.why)
            model.load_s = record.load_s
        else:
            core.emit(Kind.FOUND, model.name, version=serving, why=Why.FOUND)

    def _lost(self, model: Model, states: list[ModelState], changing: Change | None) -> None:
        """It was resident, and is no more. A restarted server has forgotten it; an operator has unloaded it."""
        core = self._core
        why = model.why or Why.SESSION
        forgotten = not any(one.state for one in states)
        held, pinned = model.leases, model.pinned
        for task in model.retiring.values():
            task.cancel()
        model.retiring.clear()
        core.emit(Kind.LOST, model.name, version=model.serving, leases=held)
        model.to(State.ABSENT)
        if changing is None and (held or (pinned and forgotten)):
            self._loading.start(model, why)


def _why(text: str) -> Why:
    try:
        return Why(text)
    except ValueError:
        return Why.FOUND
