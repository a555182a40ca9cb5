"""A load, from the wish to the first answer: one at a time for each model, a few at a time for all."""

from __future__ import annotations

import asyncio
import re

from gateway.triton.errors import ModelNotLoaded, Restricted, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.leases.types import Change
from gateway.triton.manager import plan
from gateway.triton.manager.core import PINNED, Core
from gateway.triton.manager.events import Cause, Kind, cause_of
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import LoadFailed, NoRoom, NoSuchModel, State, Why
from gateway.triton.manager.unloading import Unloading
from gateway.triton.model_info import ModelInfo

_FORGET_S = 5.0
"""Longest wait for the unload of a model that did not load."""
_EVICTIONS = 8
"""A victim may be taken into use while it is about to go; then another is looked for, so often."""
_LOOK_S = 0.25
"""Between two looks whether a model that somebody else unloads is gone."""
_NOT_EXPLICIT = "explicit model load"
"""What a Triton says that was started to load its models by itself."""


class Loading:
    def __init__(self, core: Core, unloading: Unloading) -> None:
        self._core = core
        self._unloading = unloading
        self._slots = asyncio.Semaphore(core.settings.max_loads)
        self._room = asyncio.Lock()

    def start(self, model: Model, why: Why) -> asyncio.Task[None]:
        """The load that goes on, or a new one. It ends with: LoadFailed, NoRoom, NotNow, TritonUnavailable."""
        if model.job is None or model.job.done():
            model.job = self._core.spawn(self._run(model, why), f"load {model.name}")
        return model.job

    async def _run(self, model: Model, why: Why) -> None:
        core = self._core
        async with model.lock:
            if model.state is State.READY:
                return
            if core.read_only:
                raise ModelNotLoaded(f"{model.name} is not loaded, and {core.read_only}")
            info = core.info(model.name)
            if info is None:
                raise NoSuchModel(f"{model.name} is in no model repository")
            if model.state is State.UNLOADING:
                model.to(State.ABSENT)  # by somebody else: Triton does one after the other
            if model.state is not State.LOADING:
                model.to(State.LOADING)
            model.begun = core.now()
            core.emit(Kind.LOADING, model.name, why=why)
            try:
                if why is not Why.NEEDED:
                    await self._load_needed(model, info)
                async with self._slots:
                    await self._take_turn(model, info, why)
            except BaseException:
                if model.state is State.LOADING:
                    model.to(State.ABSENT)
                raise

    async def _load_needed(self, model: Model, info: ModelInfo) -> None:
        """The models that this one calls, first: before it takes one of the few turns. Raises: LoadFailed, …"""
        core = self._core
        for name in info.needs_models:
            needed = core.model(name)
            try:
                if needed is model:
                    raise LoadFailed("it cannot need itself")
                if (refusal := needed.refusal(core.now())) is not None:
                    raise LoadFailed(str(refusal))
                # Whoever waits for it besides us goes on waiting when we are cancelled.
                await asyncio.shield(self.start(needed, Why.NEEDED))
            except (NoSuchModel, LoadFailed) as error:
                model.failures += 1
                model.retry_at = core.now() + plan.backoff_s(model.failures, core.settings)
                failed = LoadFailed(f"{model.name} needs {name}: {error}")
                model.to(State.FAILED, str(failed))
                core.emit(
                    Kind.LOAD_FAILED, model.name, cause=cause_of(str(failed)),
                    seconds=core.now() - model.begun, reason=str(failed),
                )  # fmt: skip
                raise failed from None

    async def _take_turn(self, model: Model, info: ModelInfo, why: Why) -> None:
        core, settings = self._core, self._core.settings
        await core.begin(model.name, Change.LOAD, within_s=settings.load_s, max_loads=settings.max_loads)
        try:
            before = await core.ready_versions(model.name)
            if not before:
                await self._make_room(model, info)
                model.begun = core.now()
                await self._load(model, info)
            versions = before or await core.ready_versions(model.name)
            if not versions:
                raise LoadFailed(f"{model.name} was unloaded by somebody else while it was loaded")
        except TritonError as error:
            await self._failed(model, error)
        except BaseException:
            await core.leases.end(model.name, Change.UNLOAD, ok=True)  # nothing has come of it
            raise
        now = core.now()
        model.load_s = now - model.begun if not before else model.load_s
        model.failures, model.retry_at = 0, 0.0
        model.resident_since(now, versions, plan.newest(versions))
        model.why = why
        model.pinned = model.pinned or why in PINNED
        await core.leases.end(model.name, Change.LOAD, ok=True, why=why, load_s=model.load_s)
        core.emit(
            Kind.LOADED, model.name, version=model.serving, why=why, seconds=model.load_s,
            memory_mb=info.memory_mb or None,
        )  # fmt: skip

    async def _load(self, model: Model, info: ModelInfo) -> None:
        """Raises: LoadFailed, TritonError when the server went away."""
        core, name = self._core, model.name
        end = core.now() + core.settings.load_s
        try:
            await core.repository.load(name, deadline_s=core.settings.load_s)
            if core.catalogue.folder(name) is None:
                # Of a repository that cannot be read from here, Triton describes the loaded models only.
                await core.catalogue.refresh()
                info = core.info(name) or info
                if problem := core.catalogue.problems().get(name):
                    raise LoadFailed(problem)
            await self.settle(info, end)
        except TritonTimeout:
            if await core.is_gone(TritonTimeout()):
                raise
            raise LoadFailed(f"{name} did not load within {core.settings.load_s:g} s") from None
        except TritonError as error:
            if _is_closed(error) or await core.is_gone(error):
                raise
            raise LoadFailed(_reason(name, error)) from None
        await self.warm(info, "", end)

    async def settle(self, info: ModelInfo, end: float) -> None:
        """Have Triton take note of what a model's first load changed in its folder.

        Python writes its byte code there, which Triton takes for a change of the version: the next load,
        of another version say, would start this one again, and with it lose every open sequence.
        """
        if info.backend == "python":
            left = max(end - self._core.now(), 1.0)
            await self._core.repository.load(info.name, deadline_s=left)

    async def warm(self, info: ModelInfo, version: str, end: float) -> None:
        """Raises: LoadFailed; TritonError when the server went away."""
        core = self._core
        try:
            await core.warm_up(info, version, max(end - core.now(), 1.0))
        except TritonError as error:
            if await core.is_gone(error):
                raise
            said = _reason(info.name, error)
            raise LoadFailed(f"{said} (in its warm-up)" if "warm-up" not in said else said) from None

    async def _make_room(self, model: Model, info: ModelInfo) -> None:
        """Raises: NoRoom, TritonError."""
        core = self._core
        if not (core.settings.max_resident or core.settings.max_memory_mb):
            return
        async with self._room:
            for _ in range(_EVICTIONS):
                going = await self._victims(model, info)
                if not going:
                    return
                name, cap = going[0]
                await self._unloading.evict(core.model(name), cap, victim_of=model.name)
        raise NoRoom(f"no room for {model.name}: models that could go are taken into use again and again")

    async def _victims(self, model: Model, info: ModelInfo) -> list[tuple[str, str]]:
        """Raises: NoRoom when there is none even after what is on its way out has gone."""
        core = self._core
        end = core.now() + core.settings.load_s
        while True:
            await core.look()  # others load and unload too
            try:
                return plan.victims(model.name, info.memory_mb, core.occupants(), core.settings)
            except NoRoom:
                if not core.leaving or core.now() > end:
                    raise
                await core.model(min(core.leaving)).changed(_LOOK_S)

    async def _failed(self, model: Model, error: TritonError) -> None:
        """Raises: always."""
        core, name = self._core, model.name
        if isinstance(error, NoRoom):
            await core.leases.end(name, Change.UNLOAD, ok=True)
            model.to(State.ABSENT)
            core.emit(Kind.REFUSED, name, reason=str(error))
            raise error
        if not isinstance(error, LoadFailed):
            await core.leases.end(name, Change.UNLOAD, ok=True)
            model.to(State.ABSENT)
            if _is_closed(error):
                self.close_to_changes(error)
                raise error
            raise TritonUnavailable(f"{name} is not loaded: {error}") from None
        model.failures += 1
        model.retry_at = core.now() + plan.backoff_s(model.failures, core.settings)
        took = core.now() - model.begun
        try:
            # Else its state stays what it is for ever, and so does what is left of it.
            await core.repository.unload(name, deadline_s=_FORGET_S)
        except TritonError:
            pass  # it still loads, and goes after that
        model.to(State.FAILED, str(error))
        await core.leases.end(name, Change.LOAD, ok=False, reason=str(error))
        timeout = "did not load within" in str(error)
        core.emit(
            Kind.LOAD_FAILED, name, cause=Cause.TIMEOUT if timeout else cause_of(str(error)),
            seconds=took, reason=str(error),
        )  # fmt: skip
        raise error

    def close_to_changes(self, error: TritonError) -> None:
        """This Triton takes no loads from us."""
        if not self._core.read_only:
            self._core.read_only = (
                str(error)
                if isinstance(error, Restricted)
                else "this Triton does not load models on request (--model-control-mode=explicit)"
            )
            self._core.emit(Kind.READ_ONLY, reason=self._core.read_only)


def _is_closed(error: TritonError) -> bool:
    return isinstance(error, Restricted) or _NOT_EXPLICIT in str(error)


def _reason(name: str, error: TritonError) -> str:
    """With the model's name once."""
    text = re.sub(rf"^(load )?{re.escape(name)}: ", "", str(error))
    return f"{name} does not load: {text}"
