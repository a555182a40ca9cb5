"""A `Manager` over all Tritons of a fleet: what an operator asks for happens on each that has the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from gateway.triton.errors import TritonUnavailable
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import Lease, ModelStatus, NoSuchModel, OnProgress, State, Why
from gateway.triton.model_info import ModelInfo

_BEST = (
    State.READY,
    State.LOADING,
    State.DRAINING,
    State.UNLOADING,
    State.FAILED,
    State.ABSENT,
)
"""A model is as well off as on the Triton where it is best off."""


class Everywhere:
    """A `Manager`. With one Triton it is that one's."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def lease(
        self, name: str, *, deadline_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Lease:
        """On the Triton where it is resident, else on the first that has it."""
        having = sorted(await self._having(name), key=lambda one: name not in _names(one.resident()))
        return await having[0].lease(name, deadline_s=deadline_s, on_progress=on_progress)

    async def load(
        self,
        name: str,
        *,
        why: Why = Why.OPERATOR,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        await self._each(
            name, lambda one: one.load(name, why=why, deadline_s=deadline_s, on_progress=on_progress)
        )

    async def unload(self, name: str, *, force: bool = False, deadline_s: float | None = None) -> None:
        await self._each(name, lambda one: one.unload(name, force=force, deadline_s=deadline_s))

    def resident(self) -> list[ModelInfo]:
        return _once(info for one in self._managers() for info in one.resident())

    def known(self) -> list[ModelInfo]:
        return _once(info for one in self._managers() for info in one.known())

    async def status(self) -> list[ModelStatus]:
        managers = self._managers()
        if not managers:
            raise TritonUnavailable("no Triton takes calls")
        found: dict[str, list[ModelStatus]] = {}
        seen = await asyncio.gather(*(one.status() for one in managers), return_exceptions=True)
        failures = [each for each in seen if isinstance(each, BaseException)]
        if len(failures) == len(seen):
            raise failures[0]
        for each in seen:
            for status in each if not isinstance(each, BaseException) else ():
                found.setdefault(status.info.name, []).append(status)
        return [_merged(found[name]) for name in sorted(found)]

    async def _each(self, name: str, work: Callable[[ModelManager], Awaitable[None]]) -> None:
        """All are tried; the first failure is raised then."""
        having = await self._having(name)
        results = await asyncio.gather(*map(work, having), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _having(self, name: str) -> list[ModelManager]:
        managers = self._managers()
        if not managers:
            raise TritonUnavailable("no Triton takes calls")
        if len(managers) == 1:
            return managers  # it says why not
        having = [one for one in managers if name in _names(one.known())]
        if not having:  # it may be new
            await self._fleet.look()
            having = [one for one in managers if name in _names(one.known())]
        if not having:
            raise NoSuchModel(f"no Triton has a model {name} in its repositories")
        return having

    def _managers(self) -> list[ModelManager]:
        return list(self._fleet.managers().values())


def _names(infos: Sequence[ModelInfo]) -> set[str]:
    return {info.name for info in infos}


def _once(infos: Iterable[ModelInfo]) -> list[ModelInfo]:
    found: dict[str, ModelInfo] = {}
    for info in infos:
        found.setdefault(info.name, info)
    return list(found.values())


def _merged(each: list[ModelStatus]) -> ModelStatus:
    best = min(each, key=lambda one: _BEST.index(one.state))
    if len(each) == 1:
        return best
    return replace(
        best,
        leases=sum(one.leases for one in each),
        idle_s=min(one.idle_s for one in each),
        reason=next((one.reason for one in each if one.reason), ""),
    )
