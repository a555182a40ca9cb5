"""What a synthesiser is to the voice models, and how a request finds its voice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class Voice:
    name: str
    """As clients ask for it."""
    language: str
    """BCP-47."""
    engine_name: str
    """As the engine knows it."""
    gain: float
    """Brings voiced speech to -20 dBFS RMS; measured."""


class Engine(Protocol):
    """A synthesiser."""

    rate: int
    """Hz."""
    threads: int
    """How many may work in `synthesize` at the same time."""
    rests: bool
    """Whether another call may work while one waits inside `heard`: then no call holds up another's first chunk."""
    piece_chars: int
    """The longest text of one call: what the engine does before it first calls back, nobody can interrupt."""
    voices: tuple[Voice, ...]
    """The first is the default."""

    def synthesize(
        self, text: str, voice: Voice, speed: float, heard: Callable[[np.ndarray[Any, Any]], bool]
    ) -> None:
        """Calls `heard` with int16 samples as they are made; stops soon after it returned False."""
        ...


@runtime_checkable
class Listener(Protocol):
    """A `heard` that also says how its listener stands, to engines that put their calls in an order of their own."""

    def __call__(self, samples: np.ndarray[Any, Any], /) -> bool: ...

    @property
    def wanted(self) -> bool: ...

    @property
    def due(self) -> float:
        """s, monotonic: when all that was made has been heard; in the past before the first sound."""
        ...


@runtime_checkable
class Imitator(Protocol):
    """An engine that can sound like somebody whose speech it was given."""

    imitates: bool
    """Whether its model can."""

    def imitate(
        self,
        text: str,
        voice: Voice,
        speed: float,
        heard: Callable[[np.ndarray[Any, Any]], bool],
        reference: np.ndarray[Any, Any] | None,
    ) -> None:
        """As `synthesize`; reference: float32 [n] at 16 kHz."""
        ...


class Refused(Exception):
    """A request that cannot be served. `str()` is fit for the client."""


class NothingToSay(Refused):
    """A text, or a piece of one, of which this voice can say nothing."""


def choose_voice(voices: tuple[Voice, ...], name: str, language: str) -> Voice:
    """By name, by language (its region first, then any of the language), or the first.

    Raises: Refused, naming what there is.
    """
    wanted, tag = name.strip().lower(), language.strip().replace("_", "-").lower()
    primary = tag.split("-")[0]
    speaks = [v for v in voices if not tag or v.language.lower().split("-")[0] == primary]
    named = [v for v in speaks if not wanted or v.name.lower() == wanted]
    if not named:
        known = ", ".join(f"{v.name} ({v.language})" for v in voices)
        raise Refused(
            f"Voice {name or 'default'} for language {language or 'any'} not found. Available: {known}"
        )
    return next((v for v in named if v.language.lower() == tag), named[0])
