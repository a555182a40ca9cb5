"""What must be there before anybody calls: a default of each family, and what is loaded ahead."""

from __future__ import annotations

import asyncio

from gateway.triton.errors import TritonError
from gateway.triton.manager import plan
from gateway.triton.manager.core import FAMILIES, Core
from gateway.triton.manager.events import Kind
from gateway.triton.manager.loading import Loading
from gateway.triton.manager.repair import Repairs
from gateway.triton.manager.types import LoadFailed, State, Why

NONE = "none"
"""Of the settings: this family is somebody else's."""


async def load_at_start(core: Core, loading: Loading, repairs: Repairs) -> None:
    """Raises: LoadFailed when a default does not load or does not answer, with the reason."""
    wanted = {"asr": core.settings.asr, "tts": core.settings.tts}
    await asyncio.gather(*(_default(core, loading, repairs, one, wanted[one]) for one in FAMILIES))
    ahead = list(dict.fromkeys(core.settings.preload))
    for name, result in zip(
        ahead,
        await asyncio.gather(
            *(_load(core, loading, repairs, name, Why.PRELOAD) for name in ahead), return_exceptions=True
        ),
        strict=True,
    ):
        if isinstance(result, TritonError):
            core.emit(Kind.REFUSED, name, reason=f"it is not preloaded: {result}")
        elif isinstance(result, BaseException):
            raise result


async def _default(core: Core, loading: Loading, repairs: Repairs, family: str, name: str) -> None:
    if name == NONE:
        return
    if name:
        try:
            await _load(core, loading, repairs, name, Why.DEFAULT)
        except TritonError as error:
            raise LoadFailed(f"the default {family} model {name} does not work: {error}") from None
        return
    reasons = []
    for info in plan.default_candidates(core.catalogue.all(), family):
        if core.read_only and core.model(info.name).state is not State.READY:
            reasons.append(f"{info.name} is not loaded, and {core.read_only}")
            continue
        try:
            await _load(core, loading, repairs, info.name, Why.DEFAULT)
            return
        except TritonError as error:
            reasons.append(str(error))
    broken = {name: text for name, text in core.catalogue.problems().items() if name.startswith(f"{family}_")}
    reasons += broken.values()
    if reasons:
        raise LoadFailed(f"no {family} model works: {'; '.join(reasons)}")


async def _load(core: Core, loading: Loading, repairs: Repairs, name: str, why: Why) -> None:
    """Raises: TritonError."""
    if core.info(name) is None:
        raise LoadFailed(core.catalogue.problems().get(name) or f"there is no model {name}")
    model = core.model(name)
    if model.state is State.READY:
        # By somebody else, who may not have asked it anything.
        if not await repairs.run(model):
            raise LoadFailed(model.reason or f"{name} is loaded, and does not answer")
    else:
        await loading.start(model, why)
    model.pinned = True
    if model.why is Why.FOUND:
        model.why = why
