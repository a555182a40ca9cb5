"""What ten minutes of noise do to an assistant that speaks, in virtual time with the real detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import noise, virtual
from bench.disturbance import Disturbed, session
from bench.echo import EchoPath
from bench.microphone import Float
from bench.speech import RATE, Clip

SECONDS = 600.0
_LOOP_S = 60.0
_DBFS = -40.0
_TRIALS = 60
_SEED = 5


@dataclass(frozen=True, slots=True)
class Alarms:
    disturbed: Disturbed
    released: int
    """Holds that nobody heard."""
    heard: int
    """Holds that left a gap at the client."""
    confirmed: int
    """Holds that became a pause."""


def sounds(clips: Sequence[Clip]) -> dict[str, Callable[[], Float]]:
    """At −40 dBFS RMS; key strokes: their loudest 10 ms at −20 dBFS, about −40 dBFS RMS of a lively typist."""
    voices = [clip.samples.astype(np.float32) / 32768 for clip in clips]
    return {
        "white": lambda: noise.white(_LOOP_S, _DBFS, _SEED),
        "pink": lambda: noise.pink(_LOOP_S, _DBFS, _SEED),
        "babble of 8": lambda: noise.babble(voices, _LOOP_S, _DBFS, _SEED),
        "key strokes": lambda: noise.at_level(
            noise.clicks(_LOOP_S, -20.0, _SEED, per_s=6.0).astype(np.float64), _DBFS
        ),
        "doors and cups": lambda: noise.clicks(_LOOP_S, -12.0, _SEED, per_s=0.3),
    }


def measure(
    clips: Sequence[Clip],
    *,
    seconds: float = SECONDS,
    wanted: Mapping[str, Callable[[], Float]] | None = None,
    **settings: Any,
) -> list[Alarms]:
    """Each noise over one reply of `seconds`, or its like until so much was said, in a gateway of its own."""
    made = sounds(clips) if wanted is None else wanted
    return [virtual.run(_noise(clips, name, make(), seconds, settings)) for name, make in made.items()]


def echo(clips: Sequence[Clip], *, seconds: float, gain_db: float, delay_s: float, **settings: Any) -> Alarms:
    """The assistant's own voice at its microphone while nobody speaks."""
    return virtual.run(_echo(clips, seconds, gain_db, delay_s, settings))


async def _noise(
    clips: Sequence[Clip], name: str, sound: Float, seconds: float, settings: Mapping[str, Any]
) -> Alarms:
    async with virtual.Gateway(voice(clips), story_s=seconds + 10, **settings) as gateway:
        found = await session(gateway.call, name, _DBFS, sound, seconds, _TRIALS)
        return _alarms(gateway, found)


async def _echo(
    clips: Sequence[Clip], seconds: float, gain_db: float, delay_s: float, settings: Mapping[str, Any]
) -> Alarms:
    async with virtual.Gateway(voice(clips), story_s=seconds + 10, **settings) as gateway:
        path = EchoPath(gain_db=gain_db, delay_s=delay_s)
        silent = np.zeros(RATE, np.float32)
        found = await session(
            gateway.call, "echo", gain_db, silent, seconds, _TRIALS, sources=(path,), play_to=path.attach
        )
        return _alarms(gateway, found)


def _alarms(gateway: virtual.Gateway, found: Disturbed) -> Alarms:
    released, heard, confirmed = (
        gateway.count("parley_holds_total", kind=kind) for kind in ("released", "heard", "confirmed")
    )
    return Alarms(found, released, heard, confirmed)


def voice(clips: Sequence[Clip]) -> Float:
    """What the assistant says."""
    return np.concatenate([clip.samples.astype(np.float32) / 32768 for clip in clips])


__all__ = ["Alarms", "echo", "measure", "sounds", "voice"]
