"""A manager in virtual time, over a fake Triton and the real lease table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.settings import ModelsSettings
from gateway.triton.leases.local import LocalLeases, LocalWire
from gateway.triton.manager.events import Event, Kind
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.resident import Model
from tests.support.virtual_time import run_virtual
from tests.unit.triton.manager.fake_triton import Catalogue, Disk, FakeTriton, info_of


class Bench:
    """One server, any number of managers; `async with`."""

    def __init__(self, *disks: Disk, **settings: Any) -> None:
        self.catalogue = Catalogue(disks or [Disk(info_of("asr_a", default=True)), Disk(info_of("tts_a"))])
        self.triton = FakeTriton(self.catalogue)
        self.wire = LocalWire()
        self.settings = ModelsSettings(**({"min_residency_s": 0.0} | settings))
        self.events: list[Event] = []
        self._open: list[tuple[ModelManager, LocalLeases]] = []

    def make(self, *, keeper: bool = True, label: str = "one") -> ModelManager:
        leases = LocalLeases(self.wire, label=label, lease_s=self.settings.lease_s)
        manager = ModelManager(
            self.triton, leases, self.catalogue, self.settings,
            warm_up=self.triton, keeper=keeper, on_event=self.events.append,
        )  # fmt: skip
        self._open.append((manager, leases))
        return manager

    async def started(self, **options: Any) -> ModelManager:
        manager = self.make(**options)
        await manager.start()
        return manager

    def kinds(self, model: str = "") -> list[Kind]:
        return [one.kind for one in self.events if not model or one.model == model]

    def reasons(self) -> list[str]:
        return [one.reason for one in self.events if one.reason]

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        for manager, leases in self._open:
            await manager.close()
            await leases.close()
        await self.triton.close()


def model_of(manager: ModelManager, name: str) -> Model:
    return manager._core.model(name)


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test, in virtual time."""

    def run() -> None:
        run_virtual(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(true: Callable[[], bool]) -> None:
    """In steps of virtual time that are shorter than anything that happens."""
    for _ in range(100_000):
        if true():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it never happens")


def disks(*names: str, **fields: int) -> list[Disk]:
    """The defaults, and these."""
    return [
        Disk(info_of("asr_a")),
        Disk(info_of("tts_a", default=True)),
        *(Disk(info_of(name, **fields)) for name in names),
    ]
