"""What can be served here: the repositories themselves, and what only Triton can tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.contract import breach
from gateway.triton.catalogue.findings import Finding
from gateway.triton.catalogue.folder import CONFIG, ModelFolder
from gateway.triton.catalogue.machine import Machine
from gateway.triton.catalogue.repositories import Reading, read_repositories
from gateway.triton.catalogue.validate import problem, validate
from gateway.triton.catalogue.voice_packs import Shelf, VoicePack
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError
from gateway.triton.model_info import SYSTEM_PREFIX, ModelInfo, model_info
from gateway.triton.repository import ModelState

log = logging.getLogger(__name__)


class Source(Protocol):
    """The part of `gateway.triton.repository.Repository` that is needed here."""

    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]: ...
    async def config(self, name: str, *, deadline_s: float = 5.0) -> ModelConfig: ...


class Catalogue:
    """`await refresh()` looks; everything else answers from memory.

    repositories: folders, and URLs of object stores in Triton's spelling. One that cannot be read from
        here is no failure: of its models Triton knows the names, and of the loaded ones all the rest.
    triton: None before there is one, or where none is to be asked.
    machine: what Triton runs on; None when that is not this machine, and not known.
    packs: folders of voice packs.
    """

    def __init__(
        self,
        repositories: Sequence[str | Path],
        triton: Source | None = None,
        *,
        machine: Machine | None = None,
        packs: Sequence[Path] = (),
    ) -> None:
        self._repositories = tuple(repositories)
        self._triton = triton
        self._machine = machine or Machine()
        self._models: dict[str, ModelInfo] = {}
        self._problems: dict[str, str] = {}
        self.unread: dict[str, str] = {}
        """Repositories that could not be read at the last look, with a sentence each."""
        self._told: dict[str, ModelInfo | None] = {}
        self._breaches: dict[str, str] = {}
        """Of the loaded models, what Triton's word of them shows."""
        self._reading = Reading()
        self._checked: dict[str, _Checked] = {}
        self._shelf = Shelf(packs)
        self._packs: list[VoicePack] = []
        self._pack_problems: dict[str, str] = {}
        self._said: dict[str, str] = {}
        """Problems of packs that are in the log already."""
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self.silent = ""
        """Why Triton told nothing at the last look; "" when it did."""

    def get(self, name: str) -> ModelInfo | None:
        """None: no repository has it, or it cannot be served (`problems` says why)."""
        return self._models.get(name)

    def all(self) -> list[ModelInfo]:
        """Every model that could be served here, loaded or not, by name."""
        return [self._models[name] for name in sorted(self._models)]

    def problems(self) -> dict[str, str]:
        """Models that cannot be loaded as they are, with a sentence each.

        A model that was loaded before it got its problem is served on, and is in both lists.
        """
        return dict(self._problems)

    def findings(self, name: str) -> list[Finding]:
        """All that is worth a word about a model's folder, errors first."""
        checked = self._checked.get(name)
        return list(checked.findings) if checked is not None else []

    def folder(self, name: str) -> ModelFolder | None:
        """None: in no repository that can be read from here, or in several."""
        return self._reading.folders.get(name)

    def packs(self, model: str) -> dict[str, VoicePack]:
        """The pack voices that a model can speak, beside its own, by the name that clients use."""
        info = self._models.get(model)
        if info is None:
            return {}
        own = {voice.lower() for voice in info.voices}
        return {
            pack.name: pack
            for pack in self._packs
            if pack.name.lower() not in own and pack.inputs(info) is not None
        }

    def voice_inputs(self, model: str, voice: str) -> dict[str, Array]:
        """What is sent to `model` for a voice of its own or of a pack; nothing for "", its default."""
        for name, pack in self.packs(model).items():
            if name.lower() == voice.lower():
                return pack.inputs(self._models[model]) or {}
        return {"VOICE": text(voice)} if voice else {}

    def pack_problems(self) -> dict[str, str]:
        """Voice packs that cannot be used, by path, and those that no model here can speak."""
        silent = {
            str(pack.path): f"{pack.path}: no model here can speak as {pack.name}"
            for pack in self._packs
            if not any(pack.inputs(info) for info in self._models.values())
        }
        return silent | self._pack_problems

    async def refresh(self) -> None:
        """Look again. Callers at the same time share a look that began after they asked; never raises
        for what a repository or Triton has: see `problems` and `silent`."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._look(), name="catalogue", context=Context())
            task = self._running
        else:
            # What is under way may have passed what this caller wants to see.
            if self._next is None or self._next.done():
                self._next = asyncio.create_task(
                    self._look_after(self._running), name="catalogue", context=Context()
                )
            task = self._next
        await asyncio.shield(task)

    async def _look_after(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait({before})
        self._running, self._next = self._next, None
        await self._look()

    async def _look(self) -> None:
        reading, index = await asyncio.gather(read_repositories(self._repositories), self._index())
        told = await self._tell(index) if index is not None else self._told
        checked = await asyncio.to_thread(self._check, reading, frozenset(told))
        packs, pack_problems = await asyncio.to_thread(self._shelf.read)
        self._reading, self._checked, self._told = reading, checked, told
        self._merge(index)
        self._packs, self._pack_problems = packs, pack_problems
        found = self.pack_problems()
        for path, why in found.items():
            if self._said.get(path) != why:
                log.warning("voice pack left out: %s", why)
        self._said = found

    def _check(self, reading: Reading, told: frozenset[str]) -> dict[str, _Checked]:
        """In a thread: configs and sources are parsed, some milliseconds for each that changed."""
        names: frozenset[str] | None = told.union(reading.folders, reading.doubled)
        if reading.unread and not told:
            names = None  # what is in there, nobody knows
        checked = {}
        for name, folder in reading.folders.items():
            siblings = names if b"ensemble" in folder.texts.get(CONFIG, b"") else None
            known = self._checked.get(name)
            if known is None or (known.folder, known.siblings) != (folder, siblings):
                known = _checked(folder, siblings, self._machine)
            checked[name] = known
        return checked

    async def _index(self) -> list[ModelState] | None:
        self.silent = ""
        if self._triton is None:
            return None
        try:
            return [one for one in await self._triton.index() if not one.name.startswith(SYSTEM_PREFIX)]
        except TritonError as error:
            self.silent = str(error)
            return None

    async def _tell(self, index: Iterable[ModelState]) -> dict[str, ModelInfo | None]:
        """What Triton says of each model it has, or said while it was loaded; None for a name alone."""
        states = list(index)
        ready = sorted({one.name for one in states if one.state == "READY"})
        breaches: dict[str, str] = {}
        infos = await asyncio.gather(*(self._describe(name, breaches) for name in ready))
        self._breaches = breaches
        told = {one.name: self._told.get(one.name) for one in states}
        return told | {info.name: info for info in infos if info is not None}

    async def _describe(self, name: str, breaches: dict[str, str]) -> ModelInfo | None:
        assert self._triton is not None
        try:
            config = await self._triton.config(name)
            if why := breach(config):
                breaches[name] = why
            return model_info(config)
        except TritonError:
            return None  # unloaded meanwhile, or its numbers are none, which is said of its folder

    def _merge(self, index: list[ModelState] | None) -> None:
        ready = {one.name for one in index or () if one.state == "READY"}
        problems = {name: why for name, why in self._breaches.items() if name in ready}
        problems |= self._reading.doubled
        models = {}
        for name, checked in self._checked.items():
            problems.pop(name, None)  # its folder says it with file and line
            if checked.info is None:
                problems[name] = checked.problem
            elif index is not None and name not in self._told:
                problems[name] = (
                    f"{name} is in {checked.folder.repository}, which this Triton was not started with"
                )
            else:
                models[name] = checked.info
        for name, info in self._told.items():
            if name in ready and info is not None:
                models[name] = info  # whatever became of its folder since
            elif name not in self._checked and name not in problems:
                models[name] = info or model_info(ModelConfig(name=name))
        self._models, self._problems, self.unread = models, problems, self._reading.unread


@dataclass(frozen=True, slots=True)
class _Checked:
    """What was found out about a folder."""

    folder: ModelFolder
    siblings: frozenset[str] | None
    findings: tuple[Finding, ...]
    info: ModelInfo | None
    """None: it has a problem."""
    problem: str


def _checked(folder: ModelFolder, siblings: frozenset[str] | None, machine: Machine) -> _Checked:
    findings = validate(folder, machine=machine, siblings=siblings)
    why = problem(findings)
    info = None
    try:
        info = model_info(folder.config()) if not why else None
    except TritonError as error:
        why = str(error)
    return _Checked(folder, siblings, tuple(findings), info, why)
