"""The models behind the TTS API: list, load with progress, unload."""

from __future__ import annotations

import asyncio

from gateway.protocol import tts_pb2 as pb
from gateway.riva.errors import Context
from gateway.riva.tts_api.errors import Refused
from gateway.triton.manager.types import Manager, ModelStatus, Progress, State
from gateway.triton.model_info import family_of

_LOAD_S = 600.0
"""A call without a deadline of its own waits no longer than this."""
_STATES = {
    State.ABSENT: pb.ABSENT,
    State.LOADING: pb.LOADING,
    State.READY: pb.READY,
    State.DRAINING: pb.DRAINING,
    State.UNLOADING: pb.UNLOADING,
    State.FAILED: pb.LOAD_FAILED,
}


async def list_models(manager: Manager, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
    family = request.family.strip() or "tts"
    statuses = [status for status in await manager.status() if family_of(status.info) == family]
    if request.resident_only:
        statuses = [status for status in statuses if is_resident(status)]
    return pb.ListModelsResponse(models=[model(status) for status in statuses])


async def load_model(manager: Manager, request: pb.LoadModelRequest, context: Context) -> None:
    """Writes what there is to tell, the newest only; READY last. Raises what `Manager.load` raises."""
    name = _named(request.model)
    news = asyncio.Event()
    latest: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        latest[:] = [progress]
        news.set()

    load = asyncio.ensure_future(
        manager.load(name, deadline_s=context.time_remaining() or _LOAD_S, on_progress=on_progress)
    )
    load.add_done_callback(lambda _: news.set())
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        while not load.done():
            await news.wait()
            news.clear()
            if latest:
                progress = latest.pop()
                state, elapsed_s = _STATES[progress.state], progress.elapsed_s
                if progress.state is State.READY:  # it is resident, and its newest version is not there yet
                    state, elapsed_s = pb.LOADING, loop.time() - begun
                await context.write(
                    pb.LoadModelProgress(
                        model=name, state=state, elapsed_s=elapsed_s, expected_s=progress.expected_s
                    )
                )
        await load
    finally:
        load.cancel()
    elapsed_s = loop.time() - begun
    await context.write(pb.LoadModelProgress(model=name, state=pb.READY, elapsed_s=elapsed_s))


async def unload_model(manager: Manager, request: pb.UnloadModelRequest, context: Context) -> None:
    await manager.unload(
        _named(request.model), force=request.force, deadline_s=context.time_remaining() or _LOAD_S
    )


def is_resident(status: ModelStatus) -> bool:
    return status.state in (State.READY, State.DRAINING)


def model(status: ModelStatus) -> pb.Model:
    info = status.info
    told = pb.Model(
        name=info.name,
        family=family_of(info),
        state=_STATES[status.state],
        version=status.version,
        languages=info.languages,
        voices=info.voices,
        sample_rate=info.sample_rate,
        tags=info.tags,
        needs_gpu=info.needs_gpu,
        memory_mb=info.memory_mb,
        license=info.license,
        is_default=info.default,
        why=status.why.value if status.why is not None else "",
        pinned=status.pinned,
        leases=status.leases,
        reason=status.reason,
        resident_s=status.since_s,
        idle_s=status.idle_s,
        load_s=status.load_s,
        versions=status.versions,
    )
    if status.evict_in_s is not None:
        told.evict_in_s = status.evict_in_s
    return told


def _named(name: str) -> str:
    if not name.strip():
        raise Refused("the model is not named: ListModels says which there are")
    return name.strip()
