"""What can be served here: the repositories themselves, and what only Triton can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.findings import Finding
from gateway.triton.catalogue.folder import ModelFolder
from gateway.triton.catalogue.machine import Machine
from gateway.triton.catalogue.repositories import Reading, read_repositories
from gateway.triton.catalogue.validate import problem, validate
from gateway.triton.catalogue.voice_packs import Shelf, VoicePack
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError
from gateway.triton.model_info import SYSTEM_PREFIX, ModelInfo, model_info
from gateway.triton.repository import ModelState


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
        self._told: dict[str, ModelInfo] = {}
        self._reading = Reading()
        self._findings: dict[str, list[Finding]] = {}
        self._checked: dict[str, tuple[ModelFolder, frozenset[str] | None]] = {}
        self._shelf = Shelf(packs)
        self._packs: list[VoicePack] = []
        self._pack_problems: dict[str, str] = {}
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
        return list(self._findings.get(name, ()))

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
            self._running = asyncio.create_task(self._look(), name="catalogue")
            task = self._running
        else:
            # What is under way may have passed what this caller wants to see.
            if self._next is None or self._next.done():
                self._next = asyncio.create_task(self._look_after(self._running), name="catalogue")
            task = self._next
        await asyncio.shield(task)

    async def _look_after(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait({before})
        self._running, self._next = self._next, None
        await self._look()

    async def _look(self) -> None:
        reading, index = await asyncio.gather(read_repositories(self._repositories), self._index())
        told = await self._tell(index) if index is not None else self._told
        await asyncio.to_thread(self._check, reading, frozenset(told))
        packs, pack_problems = await asyncio.to_thread(self._shelf.read)
        self._merge(reading, index, told)
        self._packs, self._pack_problems = packs, pack_problems

    def _check(self, reading: Reading, told: frozenset[str]) -> None:
        """In a thread: a model's source is parsed, which takes some milliseconds."""
        names: frozenset[str] | None = told.union(reading.folders, reading.doubled)
        if reading.unread and not told:
            names = None  # what is in there, nobody knows
        findings = {}
        for name, folder in reading.folders.items():
            now = (folder, names)
            if self._checked.get(name) == now:
                findings[name] = self._findings[name]
            else:
                findings[name] = validate(folder, machine=self._machine, siblings=names)
                self._checked[name] = now
        self._findings = findings

    async def _index(self) -> list[ModelState] | None:
        self.silent = ""
        if self._triton is None:
            return None
        try:
            return [one for one in await self._triton.index() if not one.name.startswith(SYSTEM_PREFIX)]
        except TritonError as error:
            self.silent = str(error)
            return None

    async def _tell(self, index: Iterable[ModelState]) -> dict[str, ModelInfo]:
        """What Triton says of each model it has: all of the loaded, as much as it ever said of the others."""
        names = {one.name for one in index}
        ready = sorted({one.name for one in index if one.state == "READY"})
        infos = await asyncio.gather(*(self._describe(name) for name in ready))
        told = {name: self._told.get(name) or model_info(ModelConfig(name=name)) for name in names}
        return told | {info.name: info for info in infos if info is not None}

    async def _describe(self, name: str) -> ModelInfo | None:
        assert self._triton is not None
        try:
            return model_info(await self._triton.config(name))
        except TritonError:
            return None  # unloaded meanwhile, or its numbers are none, which is said of its folder

    def _merge(self, reading: Reading, index: list[ModelState] | None, told: dict[str, ModelInfo]) -> None:
        ready = {one.name for one in index or () if one.state == "READY"}
        problems = dict(reading.doubled)
        models = {}
        for name, folder in reading.folders.items():
            why = problem(self._findings[name])
            if not why and index is not None and name not in told:
                why = f"{name} is in {folder.repository}, which this Triton was not started with"
            try:
                if not why:
                    models[name] = model_info(folder.config())
            except TritonError as error:
                why = str(error)
            if why:
                problems[name] = why
        # A loaded model is what Triton says, whatever became of its folder since.
        models |= {
            name: info
            for name, info in told.items()
            if name in ready or (name not in reading.folders and name not in problems)
        }
        self._reading, self._told = reading, told
        self._models, self._problems, self.unread = models, problems, reading.unread
