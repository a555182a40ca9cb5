"""A model whose process died answers nobody, and Triton does not notice: it is asked, and loaded again."""

from __future__ import annotations

import secrets

from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.leases.types import Change
from gateway.triton.manager import plan
from gateway.triton.manager.core import Core
from gateway.triton.manager.events import Kind, cause_of
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.resident import Model
from gateway.triton.manager.rolling import REPAIR
from gateway.triton.manager.types import NotNow, State
from gateway.triton.model_info import ModelInfo

_PROBES_S = (5.0, 15.0)
"""Waits for the answer of a model that is in doubt. A dead one is refused within two seconds; one that says
nothing may be busy, and loading it again would cost whoever uses it more than a wait."""


class Repairs:
    def __init__(self, core: Core, loading: Loading) -> None:
        self._core = core
        self._loading = loading

    async def run(self, model: Model) -> bool:
        """Ask a resident model for a sign of life, and load it again where there is none.

        True: it answers, again or still. False: it is not loaded, or failed for good.
        Raises: TritonError when Triton itself does not answer.
        """
        core = self._core
        info = core.info(model.name)
        if info is None or model.state is not State.READY:
            return False
        if await self._answers(model):
            return True
        async with core.locked(model, core.settings.load_s):
            if model.state is not State.READY:
                return False
            try:
                limits = core.settings
                await core.begin(model.name, Change.LOAD, within_s=limits.load_s, max_loads=limits.max_loads)
            except NotNow:
                return False
            reason: str | None = None
            try:
                await core.see_versions(model)
                reason = await self._mend(model, info)
            finally:
                await core.leases.end(
                    model.name, Change.LOAD, ok=reason == "", why=model.why or "", reason=reason or "",
                    load_s=model.load_s,
                )  # fmt: skip
            return not reason

    async def _mend(self, model: Model, info: ModelInfo) -> str:
        """Why it does not come back; "" when it does. Raises: TritonError when Triton itself does not answer."""
        core, began = self._core, self._core.now()
        try:
            if not await self._answers(model):  # somebody else may have repaired it meanwhile
                await self._load_again(model)
                await self._loading.warm(info, model.serving, began + core.settings.load_s)
                core.emit(Kind.REPAIRED, model.name, version=model.serving, seconds=core.now() - began)
            return ""
        except TritonError as error:
            if await core.is_gone(error):
                raise
            reason = f"{model.name} does not come back: {error}"
            await self._give_up(model, error, reason)
            return reason

    async def _answers(self, model: Model) -> bool:
        """Raises: TritonError when Triton does not answer either."""
        info = self._core.info(model.name)
        assert info is not None
        for version in model.versions:
            if not await self._version_answers(info, version):
                return False
        return True

    async def _version_answers(self, info: ModelInfo, version: str) -> bool:
        for wait_s in _PROBES_S:
            try:
                await self._core.warm_up(info, version, wait_s)
                return True
            except TritonError as error:
                if await self._core.is_gone(error):
                    raise
                if not isinstance(error, TritonTimeout):
                    return False
        return False

    async def _load_again(self, model: Model) -> None:
        # A plain load of unchanged files does nothing, whatever became of the process. A changed config
        # makes Triton start new copies beside the dead ones.
        core = self._core
        config = plan.with_versions(await core.repository.config(model.name), model.versions)
        config.parameters[REPAIR].string_value = secrets.token_hex(4)
        await core.repository.load(model.name, config, deadline_s=core.settings.load_s)

    async def _give_up(self, model: Model, error: TritonError, reason: str) -> None:
        core = self._core
        try:
            await core.repository.unload(model.name, deadline_s=5.0)
        except TritonError:
            pass
        model.failures += 1
        model.retry_at = core.now() + plan.backoff_s(model.failures, core.settings)
        model.to(State.FAILED, reason)
        core.emit(Kind.LOAD_FAILED, model.name, cause=cause_of(error), reason=reason)
