"""What a session costs: CPU time and memory of each process of the stack."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.caller import Caller
from bench.noise import room
from bench.processes import Meter, memory_by_role
from bench.speech import Clip
from bench.stack import Up

_REPLY_S = 4.0
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    what: str
    sessions: int
    seconds: float
    cpu_s: dict[str, float]
    """By role, over `seconds`."""
    memory_mib: dict[str, float]
    """By role, at the end, with the sessions open."""

    def cpu_per_session_minute(self, role: str) -> float:
        return self.cpu_s[role] / (max(1, self.sessions) * self.seconds / 60)


async def measure(
    up: Up, clips: Sequence[Clip], *, talking: Sequence[int], listening: int, seconds: float, seed: int = 5
) -> list[Load]:
    """The stack at rest, then with sessions in conversation, then with many that only listen."""
    found = [await _during(up, "at rest", 0, seconds / 2)]
    for sessions in talking:
        async with AsyncExitStack() as stack:
            callers = await _open(stack, up, sessions, seed)
            talks = [
                asyncio.create_task(_talk(caller, clips, random.Random(seed + n)))
                for n, caller in enumerate(callers)
            ]
            try:
                found.append(await _during(up, "in conversation", sessions, seconds))
            finally:
                for talk in talks:
                    talk.cancel()
                for outcome in await asyncio.gather(*talks, return_exceptions=True):
                    if isinstance(outcome, Exception):
                        raise outcome
    async with AsyncExitStack() as stack:
        await _open(stack, up, listening, seed)
        found.append(await _during(up, "listening, nobody speaks", listening, seconds))
    return found


async def _open(stack: AsyncExitStack, up: Up, sessions: int, seed: int) -> list[Caller]:
    callers = []
    for number in range(sessions):
        caller = Caller(up.endpoints["grpc"], sources=(room(seed + number),))
        callers.append(await stack.enter_async_context(caller))
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    return callers


async def _talk(caller: Caller, clips: Sequence[Clip], order: random.Random) -> None:
    """Speak, listen to four seconds of the reply, speak again, until cancelled."""
    await asyncio.sleep(order.uniform(0, 2))
    while True:
        said = await asyncio.shield(caller.microphone.say(order.choice(clips)))
        if await caller.until(lambda: caller.reply_after(said.end), 3.0) is not None:  # noqa: B023
            await caller.until(lambda: caller.speaking is None or None, _REPLY_S)
        await asyncio.shield(asyncio.create_task(caller.quiet()))
        await asyncio.sleep(0.5)


async def _during(up: Up, what: str, sessions: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    meter, begin = await asyncio.to_thread(Meter, up.pid), loop.time()
    while (left := begin + seconds - loop.time()) > 0:
        await asyncio.sleep(min(left, _LOOK_S))
        used = await asyncio.to_thread(meter.look)
    passed = loop.time() - begin
    return Load(what, sessions, passed, used, await asyncio.to_thread(memory_by_role, up.pid))
