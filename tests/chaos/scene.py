"""Four gateways over emulated parts, each with one line that can be made bad, and callers that talk all the time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.settings import Settings
from load.caller_build import ensure_caller
from load.clips import ensure_clips
from load.emulators import Emulators, Profile
from load.emulators.proxy import Proxy
from load.run.fleet import Fleet
from load.soak.chaos.people import Event, People, short_clips

PLACES = ("client", "asr", "llm", "tts")
"""Which line is bad: between callers and gateway, or between gateway and a part."""
CALLERS = 2
"""At each place."""
_SETTINGS: dict[str, dict[str, Any]] = {
    "listen": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0"},
    "asr": {"deadline_ms": 2_000, "silence_ms": 2_000},
    "llm": {"first_token_ms": 2_000, "token_ms": 2_000},
    "tts": {"first_chunk_ms": 2_000, "chunk_ms": 2_000},
    "breaker": {"open_s": 0.5},
    # However busy the machine is: nobody is turned away.
    "session": {"drain_s": 0.0, "admit_backlog_ms": 0, "admit_lag_ms": 0, "admit_busy": 0},
}
_PROFILE = {
    "asr": {"final_ms": 20},
    "llm": {"first_token_ms": 40, "tokens_per_s": 15, "replies": ["Sure. It is done."]},
    "tts": {"first_chunk_ms": 40, "rtf": 0.5},
}
_TASKS_GO_S = 8.0


@dataclass
class Scene:
    """`lines` by place: the client's are one for each of its callers."""

    people: People
    fleet: Fleet
    parts: Emulators
    lines: dict[str, list[Proxy]]
    gateways: list[Gateway]
    at_rest: Counter[str] = field(default_factory=Counter)
    """Tasks by name, after everybody had talked and left once."""

    def callers(self, place: str) -> range:
        first = PLACES.index(place) * CALLERS
        return range(first, first + CALLERS)

    def since(self, begin: float, callers: Iterable[int], name: str) -> list[Event]:
        """From that time (UNIX s) on."""
        wanted = set(callers)
        return [e for e in self.people.events if e.t >= begin and e.caller in wanted and e.name == name]

    async def spoken(self, after: float, within_s: float = 20.0) -> None:
        """Returns when everybody has heard a reply to its end that ended later; fails with whoever has not."""
        missing = await self.people.until_all_spoke(after, within_s)
        where = {PLACES[caller // CALLERS] for caller in missing}
        assert not missing, f"no reply was heard any more where the bad line is that of {sorted(where)}"

    async def until(self, true: Callable[[], object], what: str, within_s: float = 15.0) -> None:
        end = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < end, f"{what} did not come"
            await asyncio.sleep(0.05)

    async def tasks_left(self) -> Counter[str]:
        """By name, what there is more of than at rest, once it had time to end."""
        end = time.monotonic() + _TASKS_GO_S
        while (left := tasks() - self.at_rest) and time.monotonic() < end:  # noqa: ASYNC110 - tasks do not tell
            await asyncio.sleep(0.05)
        return left


def tasks() -> Counter[str]:
    """By what they do, but for the one that asks, and gRPC's own, which come and go with what their server is asked."""
    found = asyncio.all_tasks() - {asyncio.current_task()}
    names = (getattr(task.get_coro(), "__qualname__", repr(task)) for task in found if task is not None)
    return Counter(name for name in names if not name.startswith("AioServer."))


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Everybody is there and has talked. Raises BuildError, NoSpeech."""
    program, manifest = await asyncio.to_thread(ensure_caller), await asyncio.to_thread(ensure_clips)
    plan = {
        "clips": str(short_clips(manifest, folder)), "think_ms": [50, 150], "interrupt": 0.2, "interrupt_ms": [200, 500],
        "notices": True, "reply_timeout_ms": 5_000, "connect_timeout_ms": 4_000,
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        parts = Emulators(Profile().changed(_PROFILE))
        at = await parts.open()
        stack.push_async_callback(parts.close)
        addresses = {
            "asr": at.asr,
            "llm": at.llm.removeprefix("http://").removesuffix("/v1"),
            "tts": at.triton,
        }
        lines: dict[str, list[Proxy]] = {}
        gateways = []
        for place in PLACES:
            here = dict(addresses)
            if place in here:
                lines[place] = await _lines(stack, here[place], 1)
                here[place] = lines[place][0].address
            gateway = Gateway(_settings(here))
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            gateways.append(gateway)
        lines["client"] = await _lines(stack, gateways[0].grpc, CALLERS)
        hosts = [line.address for line in lines["client"]]
        hosts += [gateway.grpc for gateway in gateways[1:] for _ in range(CALLERS)]
        people = People(plan, hosts, 3)
        fleet = await stack.enter_async_context(Fleet(program, folder / "callers.log", (), people.heard))
        made = Scene(people, fleet, parts, lines, gateways)
        people.come(fleet)
        await made.spoken(time.time())
        await people.leave()
        made.at_rest = await _rest(gateways)
        people.come(fleet)
        await made.spoken(time.time())
        try:
            yield made
        finally:
            await people.leave()


async def _lines(stack: AsyncExitStack, upstream: str, count: int) -> list[Proxy]:
    made = [Proxy(upstream, seed=number + 1) for number in range(count)]
    for proxy in made:
        await proxy.open()
        stack.push_async_callback(proxy.close)
    return made


async def _rest(gateways: Sequence[Gateway]) -> Counter[str]:
    """Tasks once nobody is there."""
    end = time.monotonic() + _TASKS_GO_S
    while any(gateway.sessions.snapshot() for gateway in gateways):
        assert time.monotonic() < end, "sessions stay open after their callers have left"
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    return tasks()


def _settings(addresses: dict[str, str]) -> Settings:
    ours = {
        "asr": {"uri": addresses["asr"]},
        "llm": {"base_url": f"http://{addresses['llm']}/v1"},
        "tts": {"uri": addresses["tts"]},
    }
    sections: dict[str, Any] = {
        name: _SETTINGS.get(name, {}) | ours.get(name, {}) for name in {*_SETTINGS, *ours}
    }
    return Settings(**sections)
