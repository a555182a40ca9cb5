"""Scripted models behind the real `FleetVoices`: chosen by the real rules, loaded at once, spoken by `FakeVoice`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.manager.types import (
    InUse,
    Lease,
    ModelStatus,
    NoSuchModel,
    OnProgress,
    Progress,
    State,
    Why,
)
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate, Want
from gateway.triton.routing.policy import Policy, read_policies
from gateway.triton.routing.session_rule import Pinned

Speak = Callable[..., AsyncGenerator[dict[str, Array], None]]


class FakeManager:
    """Loads at once, counts leases, and unloads nothing that is leased."""

    def __init__(self, *models: ModelInfo, resident: int = 99) -> None:
        self.models = {known.name: known for known in models}
        self.loaded = {known.name for known in models[:resident]}
        self.versions = dict.fromkeys(self.models, 1)
        self.leases: dict[str, int] = dict.fromkeys(self.models, 0)
        self.loads: list[str] = []
        self.gate: asyncio.Event | None = None
        """Loads wait for it."""
        self.progress: Progress | None = None
        """What a load tells first."""
        self.failure: Exception | None = None
        """Of the next load."""
        self.min_residency_left_s = 0.0

    async def lease(
        self, name: str, *, deadline_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Lease:
        if name not in self.loaded:
            await self.load(name, why=Why.SESSION, deadline_s=deadline_s, on_progress=on_progress)
        self.leases[name] += 1

        def release() -> None:
            self.leases[name] -= 1

        return Lease(self.models[name], str(self.versions[name]), release)

    async def load(
        self,
        name: str,
        *,
        why: Why = Why.OPERATOR,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if name not in self.models:
            raise NoSuchModel(f"there is no model {name} in the repository")
        self.loads.append(name)
        if on_progress is not None:
            on_progress(self.progress or Progress(name, State.LOADING, 0.0, 2.0))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if name in self.loaded:
            self.versions[name] += 1
        self.loaded.add(name)

    async def unload(self, name: str, *, force: bool = False, deadline_s: float | None = None) -> None:
        if name not in self.models:
            raise NoSuchModel(f"there is no model {name} in the repository")
        if not force and self.leases[name]:
            raise InUse(f"{name} is in use by {self.leases[name]} sessions: end them, or force it")
        if not force and self.min_residency_left_s:
            raise InUse(
                f"{name} was loaded a moment ago: wait {self.min_residency_left_s:.0f} s, or force it"
            )
        self.loaded.discard(name)

    def resident(self) -> list[ModelInfo]:
        return [self.models[name] for name in sorted(self.loaded)]

    def known(self) -> list[ModelInfo]:
        return list(self.models.values())

    async def status(self) -> list[ModelStatus]:
        return [
            ModelStatus(
                info,
                State.READY if name in self.loaded else State.ABSENT,
                version=str(self.versions[name]) if name in self.loaded else "",
                why=Why.SESSION if name in self.loaded else None,
                leases=self.leases[name],
                evict_in_s=60.0 if name in self.loaded and not self.leases[name] else None,
            )
            for name, info in self.models.items()
        ]


class FakeFleet:
    """Holds models of the manager as the real one does; a wanted one is there when the manager is told to load it."""

    def __init__(self, manager: FakeManager, speak: Speak) -> None:
        self.manager, self.speak = manager, speak
        self.stand_ins = False

    def candidates(self) -> list[Candidate]:
        loaded = self.manager.loaded
        return [Candidate(info, resident=info.name in loaded) for info in self.manager.known()]

    def hold(
        self, want: Want, *, policy: str = "", notify: Callable[[str, str], None] | None = None
    ) -> FakeHold:
        read_policies(None).get(policy)
        return FakeHold(self, want)

    async def refresh(self, *, max_age_s: float = 0.0) -> None: ...


class FakeHold:
    def __init__(self, fleet: FakeFleet, want: Want) -> None:
        self._fleet, self._want = fleet, want
        self._pinned = Pinned(use_stand_in=fleet.stand_ins)
        self._lease: Lease | None = None
        self._released = False

    @property
    def offered(self) -> ModelInfo:
        return self._held().info

    @property
    def wanted(self) -> str:
        return self._pinned.model

    @property
    def version(self) -> str:
        return str(self._fleet.manager.versions[self._lease.info.name]) if self._lease is not None else ""

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo:
        if self._released:
            raise TritonUnavailable("the session has ended")
        waits = self._lease is not None and self._lease.info.name != self.wanted
        if self._lease is None or (waits and self.wanted in self._fleet.manager.loaded):
            choice = self._pinned.look(self._fleet.candidates(), self._want, Policy())
            lease = await self._fleet.manager.lease(choice.serves.info.name, deadline_s=deadline_s)
            self._let_go()
            self._lease = lease
            self._pinned.settle(choice.wanted)
        return self._held().info

    async def recover(self, error: TritonError) -> None:
        self._let_go()

    def inputs_of(self, voice: str) -> dict[str, Array]:
        return {"VOICE": text(voice)}

    def stream(
        self, inputs: Mapping[str, Array], *, first_deadline_s: float, next_deadline_s: float
    ) -> AsyncGenerator[dict[str, Array], None]:
        return self._fleet.speak(self._held().info, inputs, version=self.version)

    def release(self) -> None:
        self._released = True
        self._let_go()

    def _held(self) -> Lease:
        if self._lease is None:
            raise TritonUnavailable("no model is held")
        return self._lease

    def _let_go(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
