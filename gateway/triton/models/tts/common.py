"""What every voice does alike: what can be said, where its chance comes from, how its audio is handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.voices import Voice

Made = TypeVar("Made")

Ids = NDArray[np.int64]
"""[n] tokens."""
Samples = NDArray[np.float32]
"""[n], full scale 1."""
Heard = Callable[[NDArray[Any]], bool]
"""Takes int16 [n]; False: nobody listens any more."""


def can_be_said(text: str) -> bool:
    """Signs alone are no error, and no sound."""
    return any(sign.isalnum() for sign in text)


def fixed_seed(folder: Folder) -> int | None:
    """Of the noise of every request; None: each has its own."""
    said = folder.parameter("seed", "")
    return int(said) if said not in ("", "None") else None


def seed_or_new(seed: int | None) -> int:
    """One for a request: the fixed one, else one that no other has."""
    return seed if seed is not None else int(np.random.default_rng().integers(1 << 31))


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Raises: ValueError for what is no number, which would be a bang."""
    if not np.isfinite(samples).all():
        raise ValueError(
            "the model made audio that is no finite numbers: verify its graphs, and their precision"
        )
    whole: NDArray[np.int16] = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
    return whole


def hand_on(stream: Iterable[Samples], heard: Heard) -> bool:
    """All of it, unless somebody stops listening; False then."""
    return all(heard(to_int16(samples)) for samples in stream)


def read_voices(told: Iterable[Mapping[str, Any]]) -> tuple[Voice, ...]:
    """front.json's voices: name, language and gain of each, and speaker or engine_name where it has another name inside."""
    return tuple(
        Voice(
            str(one["name"]),
            str(one["language"]),
            str(one.get("speaker", one.get("engine_name", one["name"]))),
            float(one["gain"]),
        )
        for one in told
    )


def named(voices: Sequence[Voice], name: str) -> Voice:
    """The first where no name is given. Raises: StopIteration where there is none of that name."""
    return next(voice for voice in voices if name in ("", voice.name))


def speaker_of(voice: Voice) -> int:
    """Which of its model's speakers a voice is."""
    return int(voice.engine_name)


def opened(make: Callable[[Folder], Made], folder: Folder) -> Made:
    """An engine of this folder. Raises: GraphError, also where its front.json lacks something."""
    try:
        return make(folder)
    except (KeyError, ValueError, OSError) as error:
        raise GraphError(f"{folder.version}/front.json: {type(error).__name__} {error}") from None
