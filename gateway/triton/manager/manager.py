"""The model manager: what is resident on one Triton, for whom, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.settings import ModelsSettings
from gateway.triton.errors import (
    ModelNotLoaded,
    ProcessDied,
    SequenceLost,
    TritonError,
    TritonTimeout,
)
from gateway.triton.leases.types import Leases
from gateway.triton.manager import plan
from gateway.triton.manager.core import PINNED, Core, Models, Repository, WarmUp
from gateway.triton.manager.events import Event, log_event
from gateway.triton.manager.leasing import TRIES, Leasing
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.reconcile import Reconciler
from gateway.triton.manager.repair import Repairs
from gateway.triton.manager.resident import Model
from gateway.triton.manager.rolling import Rolling
from gateway.triton.manager.start import load_at_start
from gateway.triton.manager.types import (
    Lease,
    LoadFailed,
    ModelStatus,
    NoSuchModel,
    NotNow,
    OnProgress,
    State,
    Why,
)
from gateway.triton.manager.unloading import Unloading
from gateway.triton.model_info import SYSTEM_PREFIX, ModelInfo

_SLACK_S = 10.0
"""Beyond the deadline of a load who waits for it is told why it failed."""
_SWEEP_S = 30.0
"""Longest time between two looks at Triton, when nothing gave reason to look."""


class ModelManager:
    """`Manager` of one Triton. `await start()`, `await close()`; the ports keep to their owner.

    keeper: loads the defaults and the preloads, and unloads what is idle. Others load on first use alone.
    server: host:port, for events.
    """

    def __init__(
        self,
        repository: Repository,
        leases: Leases,
        catalogue: Models,
        settings: ModelsSettings,
        *,
        warm_up: WarmUp,
        keeper: bool = True,
        server: str = "",
        on_event: Callable[[Event], None] = log_event,
    ) -> None:
        self._core = Core(repository, leases, catalogue, settings, warm_up, server, on_event)
        self._unloading = Unloading(self._core)
        self._loading = Loading(self._core, self._unloading)
        self._rolling = Rolling(self._core, self._loading)
        self._repairs = Repairs(self._core, self._loading)
        self._reconciler = Reconciler(self._core, self._loading)
        self._leasing = Leasing(self._core, self._loading, self._reconciler)
        self._core.look = self._reconciler.look
        self._keeper = keeper

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises: LoadFailed when a default model does not load; TritonError when Triton does not answer."""
        core = self._core
        await asyncio.gather(core.leases.start(), core.catalogue.refresh())
        await self._reconciler.look()
        if self._keeper:
            try:
                await load_at_start(core, self._loading, self._repairs)
            except BaseException:
                await self.close()
                raise
        core.spawn(self._sweep(), "sweep models")

    async def close(self) -> None:
        """Loads that go on are left to Triton. The leases are their owner's to close."""
        self._core.closed = True
        await self._core.close()

    # ---- leases ----------------------------------------------------------------------------------

    async def lease(
        self,
        name: str,
        *,
        any_version: bool = False,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Lease:
        """any_version: a session's, which keeps the model and none of its versions: see `request`."""
        core = self._core
        end = core.now() + (core.settings.load_s + _SLACK_S if deadline_s is None else deadline_s)
        info, model = await self._find(name)
        return await self._leasing.lease(info, model, end, on_progress, any_version=any_version)

    async def request(self, name: str) -> Lease:
        """For one request on a model that its session holds: the version that serves now, until the request is over.

        Raises: ModelNotLoaded, TritonUnavailable.
        """
        core = self._core
        info = core.info(name)
        if info is None or name not in core.models:
            raise ModelNotLoaded(f"{name} is not loaded any more")
        return await self._leasing.request(info, core.models[name])

    # ---- operators -------------------------------------------------------------------------------

    async def load(
        self,
        name: str,
        *,
        why: Why = Why.OPERATOR,
        version: str = "",
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Load it, or have it serve what its folder asks for now: a new version, an older one, changed files.

        version: of a resident model, to roll to; "" is the newest that config.pbtxt's version_policy allows.
        Raises: as `lease`. A version that does not load is LoadFailed, and the old one goes on.
        """
        core = self._core
        end = core.now() + (core.settings.load_s + _SLACK_S if deadline_s is None else deadline_s)
        await core.catalogue.refresh()
        _, model = await self._find(name)
        if not model.lock.locked():
            await self._reconciler.look()
        for _ in range(TRIES):
            if model.state is State.READY:
                job = core.spawn(self._rolling.roll(model, version), f"roll {name}")
                await self._leasing.wait_for(model, job, end, on_progress)
                model.pinned = model.pinned or why in PINNED
                return
            model.retry_at = 0.0
            running = model.job is not None and not model.job.done()
            if running or (not model.lock.locked() and model.state in (State.ABSENT, State.FAILED)):
                await self._leasing.wait_for(model, self._loading.start(model, why), end, on_progress)
                if model.is_in(State.READY) and version in ("", model.serving):
                    model.pinned = model.pinned or why in PINNED
                    return
            else:
                await self._leasing.make_ready(model, end, on_progress)
        raise NotNow(f"{name} is loaded and unloaded again and again: try later", wait_s=5.0)

    async def unload(self, name: str, *, force: bool = False, deadline_s: float | None = None) -> None:
        """Refused while it is leased (after drain_s) and before its minimum residency, unless forced."""
        core = self._core
        if name.startswith(SYSTEM_PREFIX) or (name not in core.models and core.info(name) is None):
            await self._find(name)
        model = core.model(name)
        if not model.lock.locked():
            await self._reconciler.look()
        within = core.settings.drain_s + core.settings.load_s if deadline_s is None else deadline_s
        # It goes on where its caller does not wait: half an unload is none.
        await asyncio.shield(
            core.spawn(self._unloading.unload(model, force=force, deadline_s=within), f"unload {name}")
        )

    # ---- what is there ---------------------------------------------------------------------------

    def resident(self) -> list[ModelInfo]:
        core = self._core
        if not core.reachable:
            return []
        names = sorted(name for name, model in core.models.items() if model.state is State.READY)
        return [info for name in names if (info := core.info(name)) is not None]

    def version(self, name: str) -> str:
        """That new requests get; "" while it is not loaded. From memory."""
        model = self._core.models.get(name)
        return model.serving if model is not None else ""

    def refusal(self, name: str) -> str:
        """Why it would not be loaded now: its last load failed a moment ago. "" when it would. From memory."""
        model = self._core.models.get(name)
        refusal = model.refusal(self._core.now()) if model is not None else None
        return str(refusal or "")

    def known(self) -> list[ModelInfo]:
        return [one for one in self._core.catalogue.all() if not one.name.startswith(SYSTEM_PREFIX)]

    @property
    def read_only(self) -> str:
        """Why this Triton lets nobody here load or unload; "" when it does."""
        return self._core.read_only

    def next_eviction(self) -> tuple[str, float, str] | None:
        """Model, seconds from now, and why, as last seen: None when nothing is idle."""
        core = self._core
        found = plan.next_by_ttl(core.occupants(), core.settings)
        return (*found, "ttl") if found is not None else None

    def seen(self) -> list[ModelStatus]:
        """The resident models; from memory."""
        return [self._status(info) for info in self.resident()]

    async def status(self) -> list[ModelStatus]:
        await asyncio.gather(self._core.catalogue.refresh(), self._reconciler.look())
        return [self._status(info) for info in self.known()]

    def _status(self, info: ModelInfo) -> ModelStatus:
        core = self._core
        model = core.model(info.name)
        record = core.records.get(info.name)
        seen = core.occupant(model)
        there = model.state in (State.READY, State.DRAINING, State.UNLOADING)
        return ModelStatus(
            info,
            model.state,
            version=model.serving,
            why=model.why,
            since_s=seen.since_s if there else 0.0,
            idle_s=seen.idle_s if there else 0.0,
            leases=core.leases_on(model),
            pinned=model.pinned,
            reason=model.reason or core.catalogue.problems().get(info.name, ""),
            load_s=model.load_s or (record.load_s if record is not None else 0.0),
            evict_in_s=plan.ttl_left_s(seen, core.settings) if there else None,
            versions=model.versions,
        )

    # ---- trouble, and time -----------------------------------------------------------------------

    async def suspect(self, name: str, error: BaseException | None = None) -> bool:
        """A request to a model failed: find out why, and mend it. True: it answers, again or still.

        Never raises; when Triton itself is away it is looked at again as soon as it is back.
        """
        core = self._core
        model = core.models.get(name)
        if model is None or isinstance(error, SequenceLost):
            return model is not None
        try:
            if not isinstance(error, ProcessDied | TritonTimeout):
                await self._reconciler.look()
            if model.state is not State.READY:
                return False
            if model.repair is None or model.repair.done():
                model.repair = core.spawn(self._repairs.run(model), f"repair {name}")
            return await asyncio.shield(model.repair)
        except TritonError:
            self._reconciler.look_when_back()
            return False

    async def look(self) -> None:
        """Take over what the repositories, Triton's index and the lease table say. Raises: TritonError."""
        await asyncio.gather(self._core.catalogue.refresh(), self._reconciler.look())

    async def _sweep(self) -> None:
        core = self._core
        while True:
            soon = plan.next_by_ttl(core.occupants(), core.settings) if self._keeper else None
            await asyncio.sleep(
                min(_SWEEP_S, soon[1] + 0.05) if soon is not None and soon[1] > 0 else _SWEEP_S
            )
            try:
                await self._reconciler.look()
                if self._keeper and not core.read_only:
                    await self._evict_idle()
            except TritonError:
                continue  # looked at again when it is back

    async def _evict_idle(self) -> None:
        core = self._core
        for one in core.occupants():
            if plan.ttl_left_s(one, core.settings) == 0.0:
                await self._unloading.evict(core.model(one.name), "ttl")

    async def _find(self, name: str) -> tuple[ModelInfo, Model]:
        """Raises: NoSuchModel, LoadFailed for one that cannot be loaded as it is."""
        core = self._core
        info = core.info(name)
        if info is None and not name.startswith(SYSTEM_PREFIX):
            await core.catalogue.refresh()
            info = core.info(name)
            if info is None and (problem := core.catalogue.problems().get(name)):
                raise LoadFailed(problem)
        if info is None:
            there = ", ".join(one.name for one in self.known()) or "none"
            raise NoSuchModel(f"there is no model {name}; there are: {there}")
        return info, core.model(name)
