"""How long the noise and the sound of a ready-made voice can be: a front never asks for more in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from gateway.triton.exported.description import Axis
from gateway.triton.models.tts.piper import SPARE, NoiseInput
from parley_export.families.noise import Noise

LONGEST_S = 120.0
"""Of what one call of the graph says. A Kokoro takes nine values of noise a sample, so that this is 26 million; as many
tokens as it takes, each as long as it can be, would be ten minutes and 138 million."""
Feeds = Mapping[str, NDArray[Any]]


def noise_inputs(
    noises: Sequence[Noise],
    cases: Sequence[tuple[Feeds, Feeds]],
    *,
    ids: str,
    audio: str,
    rate: int,
    most_tokens: int,
) -> list[NoiseInput]:
    """As front.json has them. cases: fed with exactly what was taken, and what was made of it.

    What a noise has for each token goes on so to `most_tokens`; another goes on with the audio, to LONGEST_S.
    """
    return [_input(noise, cases, ids, audio, rate, most_tokens) for noise in noises]


def noise_axes(inputs: Sequence[NoiseInput], usual_tokens: int) -> tuple[Axis, ...]:
    return tuple(
        Axis(f"{one.name}_values", 1, min(int(SPARE * one.a_token * usual_tokens) + 1, one.most), one.most)
        for one in inputs
    )


def audio_axis(name: str, usual: int, a_second: float) -> Axis:
    """Of samples or frames: measured, and bounded."""
    most = math.ceil(LONGEST_S * a_second)
    return Axis(name, 1, min(usual, most), most)


def _input(
    noise: Noise, cases: Sequence[tuple[Feeds, Feeds]], ids: str, audio: str, rate: int, most_tokens: int
) -> NoiseInput:
    seen = sorted((made[audio].size, fed[ids].size, len(fed[noise.name])) for fed, made in cases)
    a_token = max(values / tokens for _, tokens, values in seen)
    (shortest, few, least), (longest, _, most) = seen[0], seen[-1]
    if all(values * few == least * tokens for _, tokens, values in seen):
        bound = math.ceil(a_token * most_tokens)
    elif longest > shortest:
        slope = max(0.0, (most - least) / (longest - shortest))
        bound = math.ceil(most + slope * max(0.0, LONGEST_S * rate - longest))
    else:
        bound = most
    return NoiseInput(
        noise.name, noise.size, noise.uniform, a_token, max(bound, *(values for *_, values in seen))
    )
