"""An unload: nobody new gets the model, who has it ends in peace, and then it is really gone."""

from __future__ import annotations

from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.leases.types import Change
from gateway.triton.manager import plan
from gateway.triton.manager.core import Core
from gateway.triton.manager.events import Kind
from gateway.triton.manager.resident import Model
from gateway.triton.manager.types import InUse, NotNow, State

_LOOK_S = 0.25
"""Between two looks whether another process is done with its load."""


class Unloading:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def unload(self, model: Model, *, force: bool, deadline_s: float) -> None:
        """By an operator. Raises: InUse, NotNow, TritonError."""
        try:
            await self._unload(model, force, deadline_s)
        except (InUse, NotNow) as error:
            self._core.emit(Kind.REFUSED, model.name, reason=str(error))
            raise

    async def _unload(self, model: Model, force: bool, deadline_s: float) -> None:
        core = self._core
        end = core.now() + deadline_s
        while model.state is State.LOADING and not model.lock.locked() and core.now() < end:
            await model.changed(min(_LOOK_S, max(end - core.now(), 0.0)))  # another process loads it
            await core.look()
        async with core.locked(model, max(end - core.now(), 0.0)):
            if not model.is_in(State.READY):
                await self._forget(model, force, max(end - core.now(), 0.1))
                return
            if not force:
                self._refuse_needed(model)
                await self._refuse_young(model)
            if not model.is_in(State.READY):
                raise NotNow(f"{model.name} went away meanwhile")
            reason = "an operator unloads it"
            model.to(State.DRAINING, reason)
            core.emit(Kind.DRAINING, model.name, because="operator", leases=model.leases)
            began = core.now()
            try:
                await self._wait_free(model, force, min(end, began + core.settings.drain_s))
                if not force:
                    await self._still_old(model)
            except BaseException:
                if model.is_in(State.DRAINING):
                    model.to(State.READY)
                raise
            core.emit(Kind.DRAINED, model.name, seconds=core.now() - began)
            await self._finish(model, max(end - core.now(), core.settings.drain_s, 1.0))
            core.emit(Kind.UNLOADED, model.name, because="operator", seconds=core.now() - began)

    def _refuse_needed(self, model: Model) -> None:
        fronts = self._core.needed_by(model.name)
        if fronts:
            raise InUse(f"{model.name} is called by {', '.join(fronts)}: unload that first")

    async def _refuse_young(self, model: Model) -> None:
        core = self._core
        await core.read_records()
        young = plan.young_s(core.occupant(model), core.settings)
        if young:
            held = core.leases_on(model)
            text = f"{model.name} was loaded a moment ago: it may go in {young:.0f} s, or by force"
            if held:
                text += f" (it is in use, too: {held} lease{'s' * (held != 1)})"
            raise InUse(text, leases=held, wait_s=young)

    async def _still_old(self, model: Model) -> None:
        """Now that nobody else changes it: it may have been loaded or repaired a moment ago.

        Raises: InUse, and then the right to unload it is given back.
        """
        try:
            await self._refuse_young(model)
        except TritonError:
            await self._core.leases.end(model.name, Change.UNLOAD, ok=False)
            raise

    async def _forget(self, model: Model, force: bool, deadline_s: float) -> None:
        """Of one that is not ready: what a failed load left, or one that somebody else has under way."""
        core, name = self._core, model.name
        if model.state is State.FAILED or await self._is_there(name):
            await core.begin(name, Change.UNLOAD, force=force, within_s=deadline_s)
            ok = False
            try:
                if not force and await core.ready_versions(name):
                    raise NotNow(f"{name} was loaded by somebody else just now", wait_s=1.0)
                await core.repository.unload(name, deadline_s=deadline_s)
                ok = True
            finally:
                await core.leases.end(name, Change.UNLOAD, ok=ok)
        model.failures, model.retry_at = 0, 0.0
        if model.state is not State.ABSENT:
            model.to(State.ABSENT)

    async def _is_there(self, name: str) -> bool:
        states = (await self._core.states()).get(name, ())
        return any(one.state in ("READY", "LOADING", "UNLOADING") for one in states)

    async def _wait_free(self, model: Model, force: bool, end: float) -> None:
        """Until it is ours to unload. Raises: InUse, NotNow, TritonError."""
        core = self._core
        pause = 0.1
        while True:
            while model.leases and not force and model.is_in(State.DRAINING) and core.now() < end:
                await model.changed(end - core.now())
            if not model.is_in(State.DRAINING):
                raise NotNow(f"{model.name} went away meanwhile")
            try:
                return await core.begin(
                    model.name, Change.UNLOAD, force=force, within_s=max(end - core.now(), 0.0)
                )
            except InUse:
                # By another process: only asking tells when that is over.
                left = end - core.now()
                if left <= 0:
                    raise
                await model.changed(min(pause, left))
                pause = min(pause * 1.5, 2.0)

    async def evict(self, model: Model, because: str, *, victim_of: str = "") -> bool:
        """Because nobody uses it. False: somebody does, after all."""
        core = self._core
        if not model.settled or model.leases:
            return False
        async with model.lock:
            model.evicting = True
            model.to(State.DRAINING, "nobody uses it")
            began = core.now()
            try:
                try:
                    await core.leases.begin(model.name, Change.UNLOAD)
                    await self._still_old(model)
                except (InUse, NotNow):
                    return False
                await self._finish(model, max(core.settings.drain_s, 1.0))
            finally:
                model.evicting = False
                if model.is_in(State.DRAINING):
                    model.to(State.READY)
            core.emit(
                Kind.EVICTED, model.name, because=because, victim_of=victim_of, seconds=core.now() - began
            )
            return True

    async def _finish(self, model: Model, deadline_s: float) -> None:
        """It is ours and nobody's else. Raises: TritonError, and then it is as the index says."""
        core, name = self._core, model.name
        model.to(State.UNLOADING)
        ok, reason = False, ""
        try:
            await core.repository.unload(name, deadline_s=deadline_s)
            ok = True
        except TritonTimeout:
            reason = (
                f"{name} is unloaded as soon as its requests are over, which takes more than {deadline_s:g} s"
            )
            raise TritonTimeout(reason) from None
        except TritonError as error:
            reason = str(error)
            raise
        finally:
            if ok:
                model.pinned = False
                model.to(State.ABSENT)
            await core.leases.end(name, Change.UNLOAD, ok=ok, reason=reason)
