"""A Triton whose loads and unloads take virtual time, fail, hang and meet one another; and what it serves from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.errors import ModelNotLoaded, ProcessDied, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.model_info import ModelInfo, model_info
from gateway.triton.repository import ModelState


def info_of(name: str, **fields: Any) -> ModelInfo:
    info = model_info(ModelConfig(name=name, backend="python"))
    return replace(info, family=name.partition("_")[0], languages=("en-US",), **fields)


@dataclass
class Disk:
    """A model's folder."""

    info: ModelInfo
    there: list[int] = field(default_factory=lambda: [1])
    load_s: float = 1.0
    unload_s: float = 0.5
    broken: dict[int, str] = field(default_factory=dict)
    """Versions that do not load, and why."""
    hangs: set[int] = field(default_factory=set)
    mute: bool = False
    """It loads, and answers nothing."""
    policy: tuple[int, ...] = ()
    """Of its config.pbtxt: version_policy specific."""

    def versions(self) -> list[int]:
        return sorted(self.there)

    def config(self) -> ModelConfig:
        config = ModelConfig(name=self.info.name, backend="python")
        config.version_policy.specific.versions.extend(self.policy)
        return config


class Catalogue:
    def __init__(self, disks: Iterable[Disk]) -> None:
        self.disks = {disk.info.name: disk for disk in disks}
        self.bad: dict[str, str] = {}
        self.readable = True
        self.refreshed = 0

    def get(self, name: str) -> ModelInfo | None:
        disk = self.disks.get(name)
        return disk.info if disk is not None and name not in self.bad else None

    def all(self) -> list[ModelInfo]:
        return [info for name in sorted(self.disks) if (info := self.get(name)) is not None]

    def problems(self) -> dict[str, str]:
        return dict(self.bad)

    def folder(self, name: str) -> Disk | None:
        return self.disks.get(name) if self.readable else None

    async def refresh(self) -> None:
        self.refreshed += 1


@dataclass
class Loaded:
    """A model in the server."""

    config: ModelConfig
    versions: dict[int, str] = field(default_factory=dict)
    """State by version."""
    copies: dict[int, int] = field(default_factory=dict)
    """Which copy of a version it is: it changes when its process is started again."""
    reasons: dict[int, str] = field(default_factory=dict)
    ready_at: float = 0.0


class FakeTriton:
    """The manager's Repository and WarmUp in one. `on_drop(model, version)` is told before a version stops."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.loaded: dict[str, Loaded] = {}
        self.dead: set[tuple[str, int]] = set()
        self.silent: set[str] = set()
        """Models that were asked in vain since a version of theirs was started last."""
        self.up = True
        self.explicit = True
        self.loads: list[str] = []
        """Versions that were started, as name@version."""
        self.unloads: list[str] = []
        self.starting = 0
        self.most_starting = 0
        self.on_drop: Callable[[str, int], None] = lambda name, version: None
        self.on_start: Callable[[str], None] = lambda name: None
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._copies = 0

    # ---- the ports -------------------------------------------------------------------------------

    async def is_live(self, *, deadline_s: float = 5.0, wait: bool = False) -> bool:
        await asyncio.sleep(0.001)
        return self.up

    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]:
        await asyncio.sleep(0.001)
        self._check_up()
        found = []
        for name in sorted({*self.catalogue.disks, *self.loaded}):
            its = self.loaded.get(name)
            if its is None or not its.versions:
                found.append(ModelState(name, "", "", ""))
                continue
            for version, state in sorted(its.versions.items()):
                found.append(ModelState(name, str(version), state, its.reasons.get(version, "")))
        return [one for one in found if one.state == "READY" or not ready]

    async def config(self, name: str, *, deadline_s: float = 5.0) -> ModelConfig:
        await asyncio.sleep(0.001)
        self._check_up()
        if name not in self.loaded or not self.ready(name):
            raise ModelNotLoaded(f"model {name}: unknown model")
        return self.loaded[name].config

    async def load(
        self, name: str, config: Mapping[str, Any] | ModelConfig | None = None, *, deadline_s: float = 60.0
    ) -> None:
        self._check_up()
        if not self.explicit:
            raise TritonError(
                f"load {name}: explicit model load / unload is not allowed if polling is enabled"
            )
        assert config is None or isinstance(config, ModelConfig)
        await self._call(f"load {name}", self._load(name, config), deadline_s)

    async def unload(self, name: str, *, deadline_s: float = 30.0, dependents: bool = False) -> None:
        self._check_up()
        await self._call(f"unload {name}", self._unload(name), deadline_s)

    async def __call__(self, info: ModelInfo, version: str, deadline_s: float) -> None:
        """The warm-up."""
        await asyncio.sleep(0.05)
        self._check_up()
        ready = self.ready(info.name)
        number = int(version) if version else max(ready, default=0)
        if number not in ready:
            raise ModelNotLoaded(f"{info.name}: not at ready state")
        if (info.name, number) in self.dead:
            raise ProcessDied(f"{info.name}: the model's process died")
        if self.catalogue.disks[info.name].mute:
            await asyncio.sleep(deadline_s)
            self.silent.add(info.name)
            raise TritonTimeout(f"{info.name}: its warm-up was not over within {deadline_s:.0f} s")
        self.silent.discard(info.name)

    # ---- what happens to it ----------------------------------------------------------------------

    def ready(self, name: str) -> list[int]:
        its = self.loaded.get(name)
        return sorted(v for v, state in its.versions.items() if state == "READY") if its is not None else []

    def resident(self) -> list[str]:
        """Models that take room."""
        busy = ("READY", "LOADING", "UNLOADING")
        return [name for name, its in self.loaded.items() if any(s in busy for s in its.versions.values())]

    def copy_of(self, name: str, version: int) -> int:
        return self.loaded[name].copies[version]

    def kill(self, name: str) -> None:
        """Its processes die; nobody is told."""
        self.dead |= {(name, version) for version in self.ready(name)}

    def stop(self) -> None:
        self.up = False
        for task in self._tasks:
            task.cancel()
        self.loaded.clear()
        self.dead.clear()
        self._locks.clear()
        self.starting = 0

    def start(self) -> None:
        self.up = True

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- the server ------------------------------------------------------------------------------

    def _check_up(self) -> None:
        if not self.up:
            raise TritonUnavailable("Triton cannot be reached")

    async def _call(self, what: str, work: Any, deadline_s: float) -> None:
        """What the server does goes on when its caller has gone."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=deadline_s)
        if not done:
            task.add_done_callback(lambda one: one.cancelled() or one.exception())
            raise TritonTimeout(f"{what}: no answer from Triton within the deadline")
        if task.cancelled():
            raise TritonUnavailable(f"{what}: the connection to Triton was cut")
        task.result()

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _load(self, name: str, config: ModelConfig | None) -> None:
        async with self._lock(name):
            disk = self.catalogue.disks.get(name)
            if disk is None:
                raise TritonError(f"load {name}: no such model in the repository")
            its = self.loaded.setdefault(name, Loaded(disk.config()))
            new = config if config is not None else its.config if self.ready(name) else disk.config()
            again = dict(new.parameters) != dict(its.config.parameters)
            wanted = _wanted(new, disk.there)
            if not wanted:
                raise TritonError(f"load {name}: at least one version must be available")
            for version in wanted:
                if again or its.versions.get(version) != "READY":
                    await self._start(name, disk, its, version)
            its.config = new
            for version in [v for v, state in its.versions.items() if state == "READY" and v not in wanted]:
                self._drop(name, its, version)
            self.silent.discard(name)

    async def _start(self, name: str, disk: Disk, its: Loaded, version: int) -> None:
        self.on_start(name)
        self.silent.discard(name)
        self.loads.append(f"{name}@{version}")
        counts = version not in disk.hangs
        self.starting += counts
        self.most_starting = max(self.most_starting, self.starting)
        was_ready = its.versions.get(version) == "READY"
        if not was_ready:
            its.versions[version] = "LOADING"
        try:
            await asyncio.sleep(1e9 if version in disk.hangs else disk.load_s)
        finally:
            self.starting = max(self.starting - counts, 0)
        if version in disk.broken:
            if not was_ready:
                its.versions[version], its.reasons[version] = "UNAVAILABLE", disk.broken[version]
            raise TritonError(f"load {name}: {disk.broken[version]}")
        self._copies += 1
        its.versions[version], its.copies[version] = "READY", self._copies
        its.reasons.pop(version, None)
        its.ready_at = asyncio.get_running_loop().time()
        self.dead.discard((name, version))

    async def _unload(self, name: str) -> None:
        async with self._lock(name):
            its = self.loaded.get(name)
            if its is None:
                return
            self.unloads.append(name)
            for version in self.ready(name):
                self._drop(name, its, version)
                its.versions[version] = "UNLOADING"
            self.silent.discard(name)
            await asyncio.sleep(self.catalogue.disks[name].unload_s)
            for version in its.versions:
                its.versions[version], its.reasons[version] = "UNAVAILABLE", "unloaded"

    def _drop(self, name: str, its: Loaded, version: int) -> None:
        self.on_drop(name, version)
        its.versions[version], its.reasons[version] = "UNAVAILABLE", "unloaded"
        self.dead.discard((name, version))


def _wanted(config: ModelConfig, there: list[int]) -> list[int]:
    specific = list(config.version_policy.specific.versions)
    if specific:
        return sorted(v for v in specific if v in there)
    return sorted(there)[-(config.version_policy.latest.num_versions or 1) :]
