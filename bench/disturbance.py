"""False barge-ins: what noise at the microphone does to an assistant that speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import noise
from bench.bargein import story
from bench.caller import Caller
from bench.microphone import Float
from bench.speech import Clip
from bench.stack import Up
from gateway.session import events as ev

BARE = {
    "PARLEY_GATE__ENABLED": "false",
    "PARLEY_GATE__FACTOR_SPEAKING": "1.0",
    "PARLEY_GATE__FACTOR_BARGED_IN": "1.0",
    "PARLEY_VAD__SPEAKING_THRESHOLD": "0.5",
}
"""No gate, no margins by state."""
_NOISE_S = 20.0
_MARGIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Disturbed:
    sound: str
    dbfs: float
    spoken_s: float
    """Time in which the assistant spoke, or was held back by the noise."""
    pauses: int
    cancels: int


def sounds(clips: Sequence[Clip], seed: int = 3) -> dict[tuple[str, float], Callable[[], Float]]:
    """(name, dBFS) → the noise, made when it is wanted."""
    voices = [clip.samples.astype(np.float32) / 32768 for clip in clips]
    made: dict[tuple[str, float], Callable[[], Float]] = {}
    for dbfs in (-45.0, -30.0):
        made["white", dbfs] = lambda dbfs=dbfs: noise.white(_NOISE_S, dbfs, seed)  # type: ignore[misc]
        made["pink", dbfs] = lambda dbfs=dbfs: noise.pink(_NOISE_S, dbfs, seed)  # type: ignore[misc]
    for dbfs in (-50.0, -40.0, -32.0):
        made["babble of 8", dbfs] = lambda dbfs=dbfs: noise.babble(voices, _NOISE_S, dbfs, seed)  # type: ignore[misc]
    for dbfs in (-30.0, -15.0):
        made["clicks", dbfs] = lambda dbfs=dbfs: noise.clicks(_NOISE_S, dbfs, seed)  # type: ignore[misc]
    for dbfs in (-60.0, -52.0, -44.0):
        made["distant television", dbfs] = lambda dbfs=dbfs: noise.television(voices, _NOISE_S, dbfs, seed)  # type: ignore[misc]
    return made


async def measure(
    settings: Mapping[str, str],
    wanted: Mapping[tuple[str, float], Callable[[], Float]],
    *,
    seconds: float,
    parallel: int,
) -> list[Disturbed]:
    """A stack of its own with the settings; each noise over `seconds` of the assistant's speech."""
    places = asyncio.Semaphore(parallel)
    async with Up(settings) as up:

        async def one(name: str, dbfs: float, make: Callable[[], Float]) -> Disturbed:
            async with places:
                return await _session(
                    up.endpoints["grpc"], name, dbfs, await asyncio.to_thread(make), seconds
                )

        return list(await asyncio.gather(*(one(*key, make) for key, make in wanted.items())))


async def _session(address: str, name: str, dbfs: float, sound: Float, seconds: float) -> Disturbed:
    loop = asyncio.get_running_loop()
    sources = (noise.room(5), noise.loop(sound))
    async with Caller(address, sources=sources) as caller:
        await asyncio.sleep(1.0)
        deadline = loop.time() + seconds + _MARGIN_S
        spoken = 0.0
        while spoken < seconds and loop.time() < deadline:
            if caller.speaking is None and await story(caller) is None:
                continue
            begin = loop.time()
            await caller.until(lambda: caller.speaking is None or None, seconds - spoken)
            spoken += loop.time() - begin
        pauses = len(caller.of(ev.Flushed))
        cancels = sum(done.outcome is ev.Outcome.INTERRUPTED for _, done in caller.of(ev.ReplyDone))
    return Disturbed(name, dbfs, spoken, pauses, cancels)
