"""Leases: a hold on a model that is ready, or that is made ready first."""

from __future__ import annotations

import asyncio
from functools import partial

from gateway.triton.errors import ModelNotLoaded, TritonTimeout, TritonUnavailable
from gateway.triton.manager.core import Core, of_version
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.reconcile import Reconciler
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import Lease, NotNow, OnProgress, Progress, State, Why
from gateway.triton.model_info import ModelInfo

TRIES = 20
"""A model may slip away between its load and the lease; then it is loaded again, so often."""
_PROGRESS_S = 1.0


class Leasing:
    def __init__(self, core: Core, loading: Loading, reconciler: Reconciler) -> None:
        self._core = core
        self._loading = loading
        self._reconciler = reconciler

    async def lease(
        self,
        info: ModelInfo,
        model: Model,
        end: float,
        on_progress: OnProgress | None,
        *,
        any_version: bool = False,
    ) -> Lease:
        """end: the event loop's time. any_version: see `ModelManager.lease`. Raises: see `Manager.lease`."""
        for _ in range(TRIES):
            if model.state is State.READY:
                await self._wait_for_repair(model, end)
                lease = await self._try(model, info, any_version)
                if lease is not None:
                    return lease
            await self.make_ready(model, end, on_progress)
        raise NotNow(f"{info.name} is loaded and unloaded again and again: try later", wait_s=5.0)

    async def _wait_for_repair(self, model: Model, end: float) -> None:
        if model.repair is not None and not model.repair.done():
            await asyncio.wait({model.repair}, timeout=max(end - self._core.now(), 0.0))

    async def request(self, info: ModelInfo, model: Model) -> Lease:
        """Raises: see `ModelManager.request`."""
        core = self._core
        for _ in range(TRIES):
            if not model.is_in(State.READY, State.DRAINING) or core.closed:
                break
            version = model.serving
            key = of_version(model.name, version)
            try:
                await core.leases.hold(key)
            except NotNow:  # it is being retired by somebody who knows a newer one
                await asyncio.sleep(0.1)
                await self._reconciler.look()
                continue
            if model.is_in(State.READY, State.DRAINING) and version in model.versions:
                model.take(version)
                return Lease(info, version, partial(self._give, model, version, key))
            core.leases.drop(key)
        raise ModelNotLoaded(f"{model.name} is not loaded any more")

    async def _try(self, model: Model, info: ModelInfo, any_version: bool) -> Lease | None:
        """A lease, or None when the model went away, or is about to."""
        core, version = self._core, "" if any_version else model.serving
        held = [model.name] if any_version else [model.name, of_version(model.name, version)]
        results = await self._hold(held)
        failed = [one for one in results if one is not None]
        there = any_version or version in model.versions
        if not failed and model.state is State.READY and there and not core.closed:
            model.take(version)
            return Lease(core.info(model.name) or info, version, partial(self._give, model, version, *held))
        for key, result in zip(held, results, strict=True):
            if result is None:
                core.leases.drop(key)
        for error in failed:
            if not isinstance(error, NotNow):
                raise error
        if failed:  # another process is about to unload or to replace it
            await asyncio.sleep(0.1)
            await self._reconciler.look()
        if core.closed:
            raise TritonUnavailable("this process is about to end")
        return None

    async def _hold(self, keys: list[str]) -> list[BaseException | None]:
        """Of each, why it is not held. Cancelled, none is."""
        leases = self._core.leases
        holds = [asyncio.create_task(leases.hold(key)) for key in keys]
        try:
            await asyncio.wait(holds)
        except asyncio.CancelledError:
            for key, hold in zip(keys, holds, strict=True):
                if hold.cancel():
                    continue
                if hold.exception() is None:
                    leases.drop(key)
            raise
        return [hold.exception() for hold in holds]

    def _give(self, model: Model, version: str, *held: str) -> None:
        model.give(version, self._core.now())
        for key in held:
            self._core.leases.drop(key)

    async def make_ready(self, model: Model, end: float, on_progress: OnProgress | None) -> None:
        """One step towards it. Raises: as `lease`."""
        core, name = self._core, model.name
        left = end - core.now()
        if left <= 0:
            raise TritonTimeout(f"{name} is {model.state} still: it was not ready in time")
        if model.state is State.READY:
            return
        if model.state is State.DRAINING and not model.evicting:
            raise NotNow(f"{name} is about to be unloaded by an operator", wait_s=core.settings.drain_s)
        if model.job is None or model.job.done():
            if model.lock.locked():  # it is on its way out: let it, and load it again
                await model.changed(min(left, 1.0))
                return
            if model.state in (State.LOADING, State.UNLOADING):  # by another process
                self._tell(model, on_progress)
                await model.changed(min(left, 0.25))
                await self._reconciler.look()
                return
            if not core.settings.on_demand:
                raise ModelNotLoaded(
                    f"{name} is not loaded, and models.on_demand is off: an operator must load it"
                )
            if (refusal := model.refusal(core.now())) is not None:
                raise refusal
        await self.wait_for(model, self._loading.start(model, Why.SESSION), end, on_progress)

    async def wait_for(
        self, model: Model, job: asyncio.Task[None], end: float, on_progress: OnProgress | None
    ) -> None:
        core = self._core
        await asyncio.sleep(0)  # a new one has not begun yet
        while not job.done():
            self._tell(model, on_progress)
            left = end - core.now()
            if left <= 0:
                raise TritonTimeout(f"{model.name} is still being loaded: it was not ready in time")
            await asyncio.wait({job}, timeout=min(left, _PROGRESS_S) if on_progress else left)
        self._tell(model, on_progress)
        if job.cancelled():
            raise TritonUnavailable(f"{model.name} is not loaded: this process is about to end")
        job.result()

    def _tell(self, model: Model, on_progress: OnProgress | None) -> None:
        if on_progress is not None:
            elapsed = self._core.now() - model.begun if model.begun else 0.0
            on_progress(Progress(model.name, model.state, elapsed, model.load_s))
