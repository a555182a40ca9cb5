"""Models come and go, and are replaced by new versions, while calls go on; what the calls notice of it is counted."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.run.child import Failed
from load.run.fleet import Fleet
from load.run.soaking import Outcome, Soak
from load.soak.chaos.people import People, now, short_clips
from load.soak.models.desk import manager_of
from load.soak.models.house import LIGHT, REAL, House, Kind, house_up
from load.soak.models.memory import Memory
from load.soak.models.verdict import Part, outcome
from load.soak.models.work import Done, Operator

ABOUT = "1,000 loads and unloads and 200 rolling version changes under live calls, on real engines and on light ones"
_CYCLES, _SHORT_CYCLES = 1_000, 4
_ROLLS, _SHORT_ROLLS = 200, 4
_SHORT_CALLERS = 4
_SHORT_PAUSE_S = 0.5
_SPEAK_S = 60.0
"""Everybody has heard a reply by then, or something is wrong."""
_SEED = 11


async def run(soak: Soak) -> Outcome:
    """Raises Failed."""
    try:
        program, manifest = await asyncio.to_thread(ensure_caller), await asyncio.to_thread(ensure_clips)
    except (BuildError, NoSpeech) as error:
        raise Failed(str(error)) from None
    clips = await asyncio.to_thread(short_clips, manifest, soak.out)
    parts = []
    for kind in (LIGHT,) if soak.short else (REAL, LIGHT):
        out = soak.out / kind.name
        out.mkdir(exist_ok=True)
        parts.append(await _part(soak, kind, out, program, clips))
        for finding in outcome(parts[-1:], short=soak.short).findings:
            print(f"  {finding}", flush=True)
    return outcome(parts, short=soak.short)


async def _part(soak: Soak, kind: Kind, out: Path, program: Path, clips: Path) -> Part:
    callers = soak.at_once or (min(kind.callers, _SHORT_CALLERS) if soak.short else kind.callers)
    cycles = soak.count or (_SHORT_CYCLES if soak.short else _CYCLES)
    rolls = min(cycles, _SHORT_ROLLS if soak.short else _ROLLS)
    done = Done()
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(house_up(soak, kind, out))
        manager = await stack.enter_async_context(manager_of(house))
        plan = {
            "clips": str(clips), "think_ms": [200, 800], "interrupt": 0.1, "interrupt_ms": [300, 900], "notices": True,
            "reply_timeout_ms": 10_000, "connect_timeout_ms": 5_000,
        }  # fmt: skip
        people = People(plan, [house.gateway.grpc] * callers, _SEED)
        fleet = await stack.enter_async_context(
            Fleet(program, out / "callers.log", soak.other_cores, people.heard)
        )
        stack.push_async_callback(people.drop)
        people.come(fleet)
        if missing := await people.until_all_spoke(now(), _SPEAK_S):
            raise Failed(f"{len(missing)} callers got no reply even before any model came or went")
        memory = Memory(house)
        tracking = asyncio.create_task(memory.track(done))
        stack.callback(tracking.cancel)
        began, began_t = time.monotonic(), now()
        await _work(house, Operator(house, manager, done), cycles, rolls, soak.short)
        seconds = time.monotonic() - began
        missing = await people.until_all_spoke(now(), _SPEAK_S)
        ended_t = now()
        await people.leave()
    people.write(out / "events.csv")
    events = [event for event in people.events if began_t <= event.t <= ended_t]
    return Part(kind, callers, cycles, rolls, done, events, sorted(missing), memory, seconds)


async def _work(house: House, operator: Operator, cycles: int, rolls: int, short: bool) -> None:
    probes = [asyncio.create_task(operator.probe()) for _ in range(house.kind.probes)]
    progress = asyncio.create_task(operator.say_how_far(cycles, rolls))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(operator.cycle(cycles))
            for model in house.kind.models:
                group.create_task(
                    operator.roll(model, rolls // 2, _SHORT_PAUSE_S if short else house.kind.roll_pause_s)
                )
    finally:
        for task in (*probes, progress):
            task.cancel()
        await asyncio.gather(*probes, progress, return_exceptions=True)
        await operator.close()
