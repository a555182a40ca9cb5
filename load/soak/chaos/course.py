"""The soak itself: everybody talks, one thing after another goes wrong, and what each caller saw is counted."""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp

from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.run.child import Failed
from load.run.fleet import Fleet
from load.run.gauges import gauges
from load.run.soaking import Outcome, Soak
from load.run.stage import GatewayUp, gateway_up, parts_up
from load.soak.chaos import verdict
from load.soak.chaos.kinds import Stage, programme
from load.soak.chaos.people import People, now, short_clips
from load.soak.chaos.record import Course
from load.soak.chaos.seen import RECOVER_S

ABOUT = "100 kills and cuts of parts, workers and lines under 32 live sessions: what each caller saw of them"
_FAULTS, _SHORT_FAULTS = 100, 10
_CALLERS, _SHORT_CALLERS = 32, 8
_WORKERS = 2
_CALM_S, _SHORT_CALM_S = 40.0, 10.0
_PAUSE_S = (0.5, 1.2)
"""Between the last one's recovery and the next fault."""
_BACK_S = 45.0
"""A killed worker is back by then, or something is wrong."""
_REST_S = 20.0
_LOOK_S = 0.2
_PROFILE = "blueprint-1"
_PARTS = (
    "llm.replies=['Sure. That is done now.', 'Well. Let me have a look.']",
    "llm.tokens_per_s=12",
    "tts.rtf=0.5",
)
"""Replies of some 1.5 s, made slowly enough that there is something to be cut."""
SETTINGS = (
    "llm.first_token_ms=1500",
    "llm.token_ms=1000",
    "tts.first_chunk_ms=1500",
    "tts.chunk_ms=1500",
    "asr.deadline_ms=2000",
    "asr.silence_ms=2000",
    "session.admit_busy=0",
    "session.admit_backlog_ms=0",
    "session.admit_lag_ms=0",
)
"""Shorter deadlines than the defaults of 5 to 8 s: whoever waits for one is back sooner, and so is the soak. And
whoever calls again is let in, however busy other programs keep the machine: that is another measurement."""
_SEED = 7


async def run(soak: Soak) -> Outcome:
    """Raises Failed."""
    try:
        program, manifest = await asyncio.to_thread(ensure_caller), await asyncio.to_thread(ensure_clips)
    except (BuildError, NoSpeech) as error:
        raise Failed(str(error)) from None
    clips = await asyncio.to_thread(short_clips, manifest, soak.out)
    callers = soak.at_once or (_SHORT_CALLERS if soak.short else _CALLERS)
    frames = soak.out / "frames.csv"
    frames.unlink(missing_ok=True)
    network_out = soak.out / "network"
    network_out.mkdir(exist_ok=True)
    # Each worker needs a core of its own, more so while a killed one starts again.
    everywhere = soak.gateway_cores | soak.other_cores
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(
            parts_up(soak.out, _PROFILE, _PARTS, clips, 1, soak.other_cores)
        )
        # The lines are another process's: they must not wait for the parts' work.
        network = await stack.enter_async_context(
            parts_up(network_out, "zero", (), None, 1, soak.other_cores)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        lines = Lines(http, network.control)
        behind = replace(
            parts,
            asr=await lines.make("asr", parts.asr),
            llm=f"http://{await lines.make('llm', host_of(parts.llm))}/v1",
            triton=await lines.make("tts", parts.triton),
        )
        gateway = await stack.enter_async_context(
            gateway_up(soak.out, behind, (*SETTINGS, *soak.settings), _WORKERS, everywhere)
        )
        plan = {
            "clips": str(clips), "think_ms": [100, 400], "interrupt": 0.15, "interrupt_ms": [300, 900], "notices": True,
            "reply_timeout_ms": 6_000, "connect_timeout_ms": 4_000, "frames_csv": str(frames),
        }  # fmt: skip
        hosts = [await lines.make(f"caller-{caller}", gateway.grpc) for caller in range(callers)]
        people = People(plan, hosts, _SEED)
        fleet = await stack.enter_async_context(
            Fleet(program, soak.out / "callers.log", soak.other_cores, people.heard)
        )
        stack.push_async_callback(people.drop)
        course = Course(callers)
        await _calm(course, people, fleet, gateway, _SHORT_CALM_S if soak.short else _CALM_S)
        stage = Stage(http, parts.control, network.control, gateway.child.pid, callers, _SEED)
        count = soak.count or (_SHORT_FAULTS if soak.short else _FAULTS)
        await _chaos(course, people, fleet, gateway, stage, count)
        course.left_open = await _left_open(stage)
    people.write(soak.out / "events.csv")
    return await asyncio.to_thread(verdict.outcome, course, people, frames)


class Lines:
    """The proxies of a run."""

    def __init__(self, http: aiohttp.ClientSession, control: str) -> None:
        self._http, self._control = http, control

    async def make(self, name: str, upstream: str) -> str:
        """Returns the address of a new one. Raises Failed."""
        order = {"name": name, "upstream": upstream}
        async with self._http.post(f"{self._control}/proxies", json=order) as answer:
            body = await answer.json()
            if answer.status != 200:
                raise Failed(f"no line for {name}: {body.get('error')}")
            return str(body["address"])


async def _calm(course: Course, people: People, fleet: Fleet, gateway: GatewayUp, for_s: float) -> None:
    """Nothing goes wrong: what is normal, and what is left when all have gone."""
    people.come(fleet)
    if await people.until_all_spoke(now(), RECOVER_S):
        raise Failed("not everybody got a reply even before anything went wrong; see gateway.log")
    course.calm_from = now()
    await asyncio.sleep(for_s)
    course.calm_until = now()
    await people.leave()
    course.tasks_before = await _rest(gateway)
    print(
        f"  {course.callers} callers, calm for {for_s:.0f} s; {course.tasks_before:.0f} tasks at rest",
        flush=True,
    )


async def _chaos(
    course: Course, people: People, fleet: Fleet, gateway: GatewayUp, stage: Stage, count: int
) -> None:
    chance = random.Random(_SEED)
    began = time.monotonic()
    people.come(fleet)
    course.missing[-1] = await people.until_all_spoke(now(), RECOVER_S)
    for number, kind in enumerate(programme(count, chance)):
        await asyncio.sleep(chance.uniform(*_PAUSE_S))
        course.send_late_ms.append(fleet.send_late_p99_ms or 0.0)
        blow = await stage.strike(kind, await sessions_of(gateway))
        course.blows.append(blow)
        missing = await people.until_all_spoke(blow.over, RECOVER_S)
        if missing:
            course.missing[number] = missing
        if blow.lost >= 0:
            await _until_back(gateway)
        lacking = f"; no reply heard by {sorted(missing)}" if missing else ""
        print(
            f"  {number + 1:>4}/{count} {time.monotonic() - began:5.0f} s  {kind.name}{lacking}", flush=True
        )
    course.ended = now()
    await people.leave()
    course.tasks_after = await _rest(gateway, course.tasks_before)
    page = await _page(gateway)
    course.restarts = int(_value(page, "parley_worker_restarts_total") or 0)


async def _rest(gateway: GatewayUp, wanted: float = 0.0) -> float:
    """Tasks once nobody is there any more; waits a while for so few. Raises Failed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _REST_S
    least = float("inf")
    while True:
        found = await gauges(f"{gateway.admin}/metrics")
        if found.get("sessions") == 0:
            least = min(least, found["tasks"])
            if wanted and least <= wanted:
                return least
            if not wanted and loop.time() > end - _REST_S + 3:
                return least
        if loop.time() > end:
            if least == float("inf"):
                raise Failed(
                    f"{found.get('sessions')} sessions were still open {_REST_S:.0f} s after all had left"
                )
            return least
        await asyncio.sleep(_LOOK_S)


async def _until_back(gateway: GatewayUp) -> None:
    """Every worker serves again. Raises Failed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _BACK_S
    while _value(await _page(gateway), "parley_workers") != _WORKERS:
        if loop.time() > end:
            raise Failed(f"a killed worker was not back within {_BACK_S:.0f} s; see gateway.log")
        await asyncio.sleep(_LOOK_S)


async def sessions_of(gateway: GatewayUp) -> dict[int, int]:
    """How many sessions each worker has now."""
    found = re.findall(
        r'^parley_worker_sessions_active\{worker="(\d+)"\} (\S+)$', await _page(gateway), re.MULTILINE
    )
    return {int(number): int(float(value)) for number, value in found}


async def _page(gateway: GatewayUp) -> str:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{gateway.admin}/metrics", timeout=aiohttp.ClientTimeout(total=5)) as answer,
        ):
            return await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failed(f"the gateway's metrics do not come: {error!r}") from None


def _value(page: str, name: str) -> float | None:
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else None


async def _left_open(stage: Stage) -> dict[str, int]:
    """What the parts still think they work on, once it is nobody's any more."""
    end = time.monotonic() + _REST_S
    while True:
        found = {part: int(counts["open"]) for part, counts in (await stage.stats()).items()}
        if not any(found.values()) or time.monotonic() > end:
            return found
        await asyncio.sleep(_LOOK_S)


def host_of(url: str) -> str:
    """host:port of the LLM's base URL."""
    return url.removeprefix("http://").partition("/")[0]
