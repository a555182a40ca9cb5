"""What the manager's parts share: the ports they go through, and all that is known of the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.settings import ModelsSettings
from gateway.triton.errors import TritonError
from gateway.triton.leases.types import Change, Leases, Record
from gateway.triton.manager import plan
from gateway.triton.manager.events import Event, Kind
from gateway.triton.manager.plan import Occupant, ascending
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import NotNow, State, Why
from gateway.triton.model_info import SYSTEM_PREFIX, ModelInfo, family_of
from gateway.triton.repository import ModelState

T = TypeVar("T")

PINNED = (Why.DEFAULT, Why.PRELOAD)
FAMILIES = ("asr", "tts")


class Repository(Protocol):
    """Of `gateway.triton.repository.Repository` what is needed here."""

    async def is_live(self, *, deadline_s: float = 5.0, wait: bool = False) -> bool: ...
    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]: ...
    async def load(
        self, name: str, config: Mapping[str, Any] | ModelConfig | None = None, *, deadline_s: float = 60.0
    ) -> None: ...
    async def unload(self, name: str, *, deadline_s: float = 30.0, dependents: bool = False) -> None: ...
    async def config(self, name: str, *, deadline_s: float = 5.0) -> ModelConfig: ...


class Folder(Protocol):
    """A model's folder as it was last read."""

    def versions(self) -> list[int]: ...
    def config(self) -> ModelConfig: ...


class Models(Protocol):
    """What the repositories have; from memory but for `refresh`."""

    def get(self, name: str) -> ModelInfo | None: ...
    def all(self) -> list[ModelInfo]: ...
    def problems(self) -> dict[str, str]: ...
    def folder(self, name: str) -> Folder | None: ...
    async def refresh(self) -> None: ...


class WarmUp(Protocol):
    async def __call__(self, info: ModelInfo, version: str, deadline_s: float) -> None:
        """One small request. Raises: TritonError."""
        ...


class Core:
    """Changed on the event loop only."""

    def __init__(
        self,
        repository: Repository,
        leases: Leases,
        catalogue: Models,
        settings: ModelsSettings,
        warm_up: WarmUp,
        server: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self.repository = repository
        self.leases = leases
        self.catalogue = catalogue
        self.settings = settings
        self.warm_up = warm_up
        self.models: dict[str, Model] = {}
        self.records: dict[str, Record] = {}
        """The lease table as it was when it was last read."""
        self.busy: set[str] = set()
        """Models that took room on Triton when it was last looked at."""
        self.leaving: set[str] = set()
        """Those of them that were on their way out."""
        self.records_at = 0.0
        self.look: Callable[[], Awaitable[None]] = self._no_look
        """Takes over what Triton and the lease table say. Raises: TritonError."""
        self.reachable = True
        self.closed = False
        self.read_only = ""
        """Why this Triton does not let us change its models; "" when it does."""
        self._server = server
        self._on_event = on_event
        self._tasks: set[asyncio.Task[Any]] = set()

    async def _no_look(self) -> None:
        return None

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def model(self, name: str) -> Model:
        found = self.models.get(name)
        if found is None:
            found = self.models[name] = Model(name)
        return found

    def info(self, name: str) -> ModelInfo | None:
        return None if name.startswith(SYSTEM_PREFIX) else self.catalogue.get(name)

    def emit(self, kind: Kind, model: str = "", **fields: Any) -> None:
        self._on_event(Event(kind, model, server=self._server, **fields))

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that outlives its callers, and not the manager."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told

    async def close(self) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    @asynccontextmanager
    async def locked(self, model: Model, within_s: float) -> AsyncIterator[None]:
        """The right to change a model here. Raises: NotNow when somebody else has it for longer than that."""
        try:
            async with asyncio.timeout(within_s):
                await model.lock.acquire()
        except TimeoutError:
            raise NotNow(f"{model.name} is {model.state} still: try again later", wait_s=1.0) from None
        try:
            yield
        finally:
            model.lock.release()

    async def read_records(self) -> dict[str, Record]:
        """Raises: TritonUnavailable."""
        self.records = await self.leases.records()
        self.records_at = self.now()
        return self.records

    async def states(self) -> dict[str, list[ModelState]]:
        """Triton's index, by model, without what Parley installs for itself. Raises: TritonError."""
        found: dict[str, list[ModelState]] = {}
        for one in await self.repository.index():
            if not one.name.startswith(SYSTEM_PREFIX):
                found.setdefault(one.name, []).append(one)
        states = {name: {one.state for one in its} for name, its in found.items()}
        self.busy = {name for name, its in states.items() if its & {"READY", "LOADING", "UNLOADING"}}
        self.leaving = {
            name for name in self.busy if "UNLOADING" in states[name] and "READY" not in states[name]
        }
        return found

    async def ready_versions(self, name: str) -> tuple[str, ...]:
        return ready(await self.states(), name)

    async def see_versions(self, model: Model) -> None:
        """Those that answer now, for who has the right to change it: a load takes away what it does not name.

        Another process may have brought some since the last look. Raises: TritonError.
        """
        versions = await self.ready_versions(model.name)
        records = await self.read_records()
        serving = self.newest_staying(model, versions, records)
        if versions and (versions, serving) != (model.versions, model.serving):
            model.serve(versions, serving)

    def newest_staying(self, model: Model, versions: tuple[str, ...], records: Mapping[str, Record]) -> str:
        """The newest of those that are not on their way out."""

        def goes(version: str) -> bool:
            record = records.get(of_version(model.name, version))
            leaving = record is not None and record.changing is Change.UNLOAD
            return leaving or version in model.retiring

        return plan.newest(one for one in versions if not goes(one)) or plan.newest(versions)

    async def begin(
        self, name: str, change: Change, *, within_s: float, max_loads: int = 0, force: bool = False
    ) -> None:
        """As `Leases.begin`; waits while another process changes the model. Raises: InUse, NotNow, TritonError."""
        end, pause = self.now() + within_s, 0.1
        while True:
            try:
                return await self.leases.begin(name, change, force=force, max_loads=max_loads)
            except NotNow as error:
                left = end - self.now()
                if left <= 0:
                    raise
                await asyncio.sleep(min(max(pause, min(error.wait_s, 0.5)), left))
                pause = min(pause * 1.5, 2.0)

    def occupants(self) -> list[Occupant]:
        """Models that take room, as last seen; ages as of now."""
        found = {}
        for model in self.models.values():
            if model.state in (State.READY, State.DRAINING, State.UNLOADING, State.LOADING):
                found[model.name] = self.occupant(model)
        loading = {
            name for name, one in self.records.items() if one.changing is Change.LOAD and "@" not in name
        }
        for name in (self.busy | loading) - found.keys():
            # Another process loads or unloads it just now: its room is taken. Whether what we gave up still
            # takes any, nobody knows.
            if self.model(name).state is not State.FAILED or name in loading:
                found[name] = Occupant(name, self._memory(name), 0.0, 0.0, changing=True)
        return list(found.values())

    def leases_on(self, model: Model) -> int:
        """Of all processes, as last seen."""
        record = self.records.get(model.name)
        return max(record.sessions if record is not None else 0, model.leases)

    def needed_by(self, name: str) -> list[str]:
        """Models that are resident, or about to be, and call this one."""
        there = (State.LOADING, State.READY, State.DRAINING)
        infos = {one.name: self.info(one.name) for one in self.models.values() if one.state in there}
        return sorted(each for each, info in infos.items() if info is not None and name in info.needs_models)

    def occupant(self, model: Model) -> Occupant:
        record = self.records.get(model.name)
        now, later = self.now(), self.now() - self.records_at
        changing = model.state is not State.READY or model.lock.locked()
        leased = bool(model.leases or self.needed_by(model.name))
        pinned, foreign = model.pinned, model.why is Why.FOUND
        since_s, idle_s = now - model.since, now - model.used
        if record is not None:
            changing = changing or record.changing is not None
            leased = leased or bool(record.holders)
            if record.since_s is not None:
                since_s = record.since_s + later
                idle_s = (
                    min(record.idle_s + later, idle_s)
                    if model.used > self.records_at
                    else record.idle_s + later
                )
                pinned = pinned or record.why in PINNED
        info = self.catalogue.get(model.name)
        if foreign and (info is None or family_of(info) not in FAMILIES):
            pinned = True  # some other business's, or a part of an ensemble
        idle_s = 0.0 if leased else idle_s
        return Occupant(
            model.name, self._memory(model.name), idle_s, since_s, leased, pinned, changing, foreign
        )

    def _memory(self, name: str) -> int:
        info = self.catalogue.get(name)
        return info.memory_mb if info is not None else 0

    async def is_gone(self, error: BaseException) -> bool:
        """Whether the server itself is the reason for this failure."""
        return isinstance(error, TritonError) and not await self.repository.is_live(deadline_s=2.0)


def ready(states: Mapping[str, list[ModelState]], name: str) -> tuple[str, ...]:
    return ascending(one.version for one in states.get(name, ()) if one.state == "READY")


def of_version(name: str, version: str) -> str:
    """What a version is called in the lease table."""
    return f"{name}@{version}"
