"""False barge-ins: what noise at the microphone does to an assistant that speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import noise
from bench.bargein import STORY
from bench.caller import Address, Caller
from bench.microphone import Float, Source
from bench.speech import Clip
from bench.stack import Up
from gateway.cli.player import Player
from gateway.session import events as ev

BARE = {
    "PARLEY_GATE__ENABLED": "false",
    "PARLEY_GATE__FACTOR_SPEAKING": "1.0",
    "PARLEY_GATE__FACTOR_BARGED_IN": "1.0",
    "PARLEY_VAD__SPEAKING_THRESHOLD": "0.5",
}
"""No gate, no margins by state."""
_NOISE_S = 20.0
_BEFORE_S = 3.5
"""The gate's window: it knows the noise by then."""
_BETWEEN_S = 0.5
_BEGIN_S = 0.8
_SILENCE_S = 3.0
_HANGOVER_MS = 256
"""So that the noise need not be silent for long."""


@dataclass(frozen=True, slots=True)
class Disturbed:
    sound: str
    dbfs: float
    spoken_s: float
    """Of the assistant's speech, or of its being held back by the noise."""
    pauses: int
    cancels: int
    held_back: int
    """Times that the assistant could not begin before the noise fell silent."""
    late_ms: float


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
    trials: int,
    parallel: int,
) -> list[Disturbed]:
    """A stack of its own with the settings; each noise over `seconds` of the assistant's speech,
    or `trials` stories that were cut."""
    places = asyncio.Semaphore(parallel)
    async with Up(settings) as up:

        async def one(name: str, dbfs: float, make: Callable[[], Float]) -> Disturbed:
            async with places:
                sound = await asyncio.to_thread(make)
                return await session(up.endpoints["grpc"], name, dbfs, sound, seconds, trials)

        return list(await asyncio.gather(*(one(*key, make) for key, make in wanted.items())))


async def session(
    address: Address,
    name: str,
    dbfs: float,
    sound: Float,
    seconds: float,
    trials: int,
    *,
    sources: tuple[Source, ...] = (),
    play_to: Callable[[Player], None] | None = None,
) -> Disturbed:
    """The noise sounds all the time. Where it keeps the assistant from beginning at all, since it is taken
    for a user who speaks, it falls silent until the story's first sound: else nothing would be interrupted."""
    loop = asyncio.get_running_loop()
    disturbance = noise.Switched(noise.loop(sound))
    spoken, pauses, cancels, held_back = 0.0, 0, 0, 0
    heard: tuple[Source, ...] = (noise.room(5), disturbance, *sources)
    turns = ev.Configure(hangover_ms=_HANGOVER_MS, hangover_long_ms=_HANGOVER_MS)
    async with Caller(address, configure=turns, sources=heard, play_to=play_to) as caller:
        await asyncio.sleep(_BEFORE_S)
        for _ in range(trials):
            await caller.quiet()
            asked = loop.time()
            await caller.client.send(ev.TextIn(STORY))
            reply = await caller.until(lambda: caller.reply_after(asked), _BEGIN_S)  # noqa: B023
            if reply is None:
                held_back += 1
                disturbance.on = False
                reply = await caller.until(lambda: caller.reply_after(asked), _SILENCE_S)  # noqa: B023
                disturbance.on = True
            if reply is None:
                continue
            begin = loop.time()
            await caller.until(lambda: reply.done is not None, seconds - spoken)  # noqa: B023
            spoken += loop.time() - begin
            pauses += sum(f.reply_id == reply.reply_id for _, f in caller.of(ev.Flushed))
            cancels += reply.done is not None and reply.done.outcome is ev.Outcome.INTERRUPTED
            if spoken >= seconds:
                break
            await asyncio.sleep(_BETWEEN_S)
        return Disturbed(name, dbfs, spoken, pauses, cancels, held_back, caller.microphone.late_s * 1000)
