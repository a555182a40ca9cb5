"""A new version beside the old one: new leases get it once it answers, and the old one goes with its last lease.

Triton leaves versions alone that are named in the new config and whose files are as they were, whatever
else becomes of the model: so both are named until the old one has run out. See docs/decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.errors import TritonError
from gateway.triton.leases.types import Change
from gateway.triton.manager import plan
from gateway.triton.manager.core import Core, Folder, of_version
from gateway.triton.manager.events import Kind, cause_of
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import InUse, LoadFailed, NotNow, State

REPAIR = "parley_repair"
"""A parameter of the config that a repair left; without it a load would start every version again."""
_LONGEST_LOOK_S = 5.0
"""Between two looks whether other processes still hold an old version."""


class Rolling:
    def __init__(self, core: Core, loading: Loading) -> None:
        self._core = core
        self._loading = loading

    async def roll(self, model: Model, version: str = "") -> None:
        """Have a resident model serve what its folder asks for, or `version`; changed files are loaded again.

        Raises: LoadFailed (what was there goes on), NotNow, TritonError.
        """
        core, settings = self._core, self._core.settings
        if problem := core.catalogue.problems().get(model.name):
            raise LoadFailed(problem)
        folder = core.catalogue.folder(model.name)
        target = version or self._wanted(folder)
        gone = self._gone(model, folder)
        if gone:
            await self._wait_unused(model, gone, settings.drain_s)
        async with core.locked(model, settings.load_s):
            if model.state is not State.READY:
                raise NotNow(f"{model.name} went away meanwhile")
            if target in model.versions:
                await self._take_back(model, target)
            await core.begin(model.name, Change.LOAD, within_s=settings.load_s, max_loads=settings.max_loads)
            before = model.serving
            ok, reason, began = False, "", core.now()
            try:
                await core.see_versions(model)
                before = model.serving
                if target != before:
                    core.emit(Kind.ROLLING, model.name, version=target)
                serving = await self._bring(model, folder, target)
                ok = True
            except TritonError as error:
                if await core.is_gone(error):
                    raise
                reason = f"version {target or 'newest'} of {model.name} does not serve: {_bare(error)}; {before} goes on"
                core.emit(Kind.ROLL_FAILED, model.name, version=target, cause=cause_of(error), reason=reason)
                raise LoadFailed(reason) from None
            finally:
                why = model.why or ""
                await core.leases.end(
                    model.name, Change.LOAD, ok=ok, why=why, reason=reason, load_s=model.load_s
                )
        if serving != before and before in model.versions:
            self.retire(model, before, core.now() - began)
        elif serving != before:
            core.emit(Kind.ROLLED, model.name, version=serving, seconds=core.now() - began)

    def retire(self, model: Model, version: str, took_s: float = 0.0) -> None:
        """Unload a version once nobody has it any more; new leases do not get it from now on."""
        if version not in model.retiring:
            task = self._core.spawn(
                self._retire(model, version, took_s), f"retire {of_version(model.name, version)}"
            )
            model.retiring[version] = task

    def _wanted(self, folder: Folder | None) -> str:
        """ "" where its folder cannot be read from here: Triton knows what is newest."""
        if folder is None:
            return ""
        try:
            return plan.wanted_version(folder.config(), folder.versions())
        except ValueError:
            return ""

    def _gone(self, model: Model, folder: Folder | None) -> list[str]:
        """Versions that answer, and whose folder is not there any more: the next load ends them."""
        if folder is None:
            return []
        there = {str(one) for one in folder.versions()}
        return [one for one in model.versions if one not in there]

    async def _bring(self, model: Model, folder: Folder | None, target: str) -> str:
        """The version that serves from now on. Raises: TritonError, and then nothing has changed."""
        core = self._core
        info = core.info(model.name)
        if info is None:
            raise LoadFailed(f"{model.name} is in no model repository any more")
        end = core.now() + core.settings.load_s
        old = [one for one in model.versions if one not in self._gone(model, folder)]
        base = await self._base(model, folder)
        if target:
            config = plan.with_versions(base, {*old, target})
        else:
            config = plan.with_newest(base, len(model.versions) + 1)
        try:
            await core.repository.load(model.name, config, deadline_s=core.settings.load_s)
            if info.backend == "python":
                await core.repository.load(
                    model.name, config, deadline_s=max(end - core.now(), 1.0)
                )  # as in Loading.settle
            versions = await core.ready_versions(model.name)
            serving = target or plan.newest(versions)
            if serving not in versions:
                raise LoadFailed(f"{model.name} has no version {serving} after its load")
            if serving != model.serving:
                await self._loading.warm(info, serving, end)
        except TritonError:
            await self._undo(model, base, old)
            raise
        model.serve(versions, serving)
        return serving

    async def _base(self, model: Model, folder: Folder | None) -> ModelConfig:
        loaded = await self._core.repository.config(model.name)
        if folder is None:
            return loaded
        config = folder.config()
        if REPAIR in loaded.parameters:
            config.parameters[REPAIR].CopyFrom(loaded.parameters[REPAIR])
        return config

    async def _undo(self, model: Model, base: ModelConfig, old: Iterable[str]) -> None:
        """What does not serve is taken out again; a load that still goes on is not waited for."""
        core = self._core
        try:
            await core.repository.load(model.name, plan.with_versions(base, old), deadline_s=5.0)
            versions = await core.ready_versions(model.name)
            if versions:
                model.serve(versions, model.serving if model.serving in versions else plan.newest(versions))
        except TritonError:
            pass  # why it failed matters more; the next look at the index tells how it is

    async def _take_back(self, model: Model, version: str) -> None:
        """It was on its way out, and shall stay. Raises: NotNow."""
        task = model.retiring.pop(version, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        record = (await self._core.read_records()).get(of_version(model.name, version))
        if record is not None and record.changing is Change.UNLOAD:
            raise NotNow(
                f"version {version} of {model.name} is being retired by {record.changer}", wait_s=1.0
            )

    async def _wait_unused(self, model: Model, versions: list[str], within_s: float) -> None:
        """Their folders are gone, so the next load ends them: best while nobody uses them."""
        end = self._core.now() + within_s
        pause = 0.2
        while self._core.now() < end:
            if not any(model.leases_of(one) for one in versions):
                records = await self._core.read_records()
                keys = [of_version(model.name, one) for one in versions]
                if not any(records[key].holders for key in keys if key in records):
                    return
            await model.changed(min(pause, max(end - self._core.now(), 0.0)))
            pause = min(pause * 1.5, 2.0)

    async def _retire(self, model: Model, version: str, took_s: float) -> None:
        core, key = self._core, of_version(model.name, version)
        began = False
        try:
            try:
                await core.begin(key, Change.UNLOAD, force=True, within_s=core.settings.lease_s)
                began = True
            except (InUse, NotNow):
                return  # somebody else does
            await self._run_out(model, version, key)
            async with core.locked(model, 10 * core.settings.load_s):
                if model.state is State.READY and version in model.versions and version != model.serving:
                    await self._remove(model, version)
                    core.emit(Kind.ROLLED, model.name, version=model.serving, seconds=took_s)
        except TritonError as error:
            core.emit(
                Kind.ROLL_FAILED, model.name, version=version, reason=f"it is not retired: {_bare(error)}"
            )
        finally:
            if model.retiring.get(version) is asyncio.current_task():
                del model.retiring[version]
            if began:
                await core.leases.end(key, Change.UNLOAD, ok=True)

    async def _run_out(self, model: Model, version: str, key: str) -> None:
        core = self._core
        pause = 0.2
        while version in model.versions:
            if not model.leases_of(version):
                record = (await core.read_records()).get(key)
                if record is None or not record.holders:
                    return
                await model.changed(pause)
                pause = min(pause * 1.5, _LONGEST_LOOK_S)
            else:
                await model.changed()

    async def _remove(self, model: Model, version: str) -> None:
        core = self._core
        await core.begin(model.name, Change.LOAD, within_s=core.settings.load_s)
        try:
            await core.see_versions(model)
            folder = core.catalogue.folder(model.name)
            staying = [one for one in model.versions if one != version]
            if version == model.serving or version not in model.versions:
                return  # it was taken back, or taken away, meanwhile
            config = plan.with_versions(await self._base(model, folder), staying)
            await core.repository.load(model.name, config, deadline_s=core.settings.load_s)
            model.serve(tuple(staying), model.serving)
        finally:
            why = model.why or ""
            await core.leases.end(model.name, Change.LOAD, ok=True, why=why, load_s=model.load_s)


def _bare(error: TritonError) -> str:
    text = str(error)
    head, _, rest = text.partition(": ")
    return rest if rest and head.startswith("load ") else text
