"""Ready-made Piper voices: one graph up to the latents and one from there to audio, or one for all.

Such a voice drew its noise itself; its exporter has made inputs of that. How much it takes is known only when
the durations are, so it is given more than it will need, and once more where that was not enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.segments import segments
from gateway.triton.models.text import load_text
from gateway.triton.models.tts.common import (
    Heard,
    Ids,
    Samples,
    can_be_said,
    fixed_seed,
    hand_on,
    named,
    opened,
    read_voices,
    seed_or_new,
    speaker_of,
)
from gateway.triton.models.tts.vits import PIECE_CHARS
from gateway.triton.models.tts.windows import Windowing, Windows
from gateway.triton.models.voices import Voice

SPARE = 1.5
"""How much more noise is given than the voice's exporter saw a token take."""
TRIES = 3
"""Noise for the durations, noise for what they say, and once more for a graph that draws in another order."""
MOST_VALUES = 1 << 25
"""Of one noise, where its model does not say how much its graph takes. More is a broken graph's wish."""
MOST_TOKENS = 1000


class TooLong(GraphError):
    """More than one call of the graph may say: it is cut in two, and each half said by itself."""


class NoiseInput(NamedTuple):
    """One of front.json's noise."""

    name: str
    size: str
    """The output that says how many values it took."""
    uniform: bool
    a_token: float
    """Values that a token was seen to take at the usual speed."""
    most: int = MOST_VALUES
    """End of the range of the graph's input."""

    def draw(self, seed: int, index: int, count: int) -> NDArray[np.float32]:
        """More of the same seed begins with the same values. index: of the input, each has its own noise."""
        rng = np.random.default_rng([seed, index])
        return rng.random(count, np.float32) if self.uniform else rng.standard_normal(count, np.float32)


class Piper:
    """`Engine` of an imported Piper voice."""

    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError."""
        front = folder.front
        self.rate = int(front["sample_rate"])
        self.voices = read_voices(front["voices"])
        self._say = load_text(folder)
        self._graph = folder.graph("voice")
        self._generator = folder.graph("generator") if "generator" in front["graphs"] else None
        self._windows = Windowing.of(front["windows"]) if self._generator else None
        self._conditions = [str(name) for name in front.get("conditions", ())]
        self._scales = [float(front[key]) for key in ("noise_scale", "length_scale", "noise_w")]
        self._noise = [NoiseInput(**one) for one in front["noise"]]
        self._most = int(front.get("most_tokens", MOST_TOKENS))
        self._seed = fixed_seed(folder)

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        if not can_be_said(text):
            return
        seed = seed_or_new(self._seed)
        hand_on(self._said(text, voice, speed, seed), heard)

    def audio(self, said: str | Ids, seed: int, voice: str = "", speed: float = 1.0) -> Samples:
        """All of a text or of its tokens, as the graphs make it: no level set, nothing trimmed."""
        ids = self._say(said) if isinstance(said, str) else said
        return np.concatenate(list(self._stream(ids, named(self.voices, voice), speed, seed)))

    def _said(self, text: str, voice: Voice, speed: float, seed: int) -> Iterator[Samples]:
        """Raises: GraphError."""
        try:
            yield from self._stream(self._say(text), voice, speed, seed)
        except TooLong:  # before the first of its samples
            half = (len(text) + 1) // 2
            halves = [one for one in segments(text, half, half) if can_be_said(one)]
            if max(map(len, halves), default=len(text)) >= len(text):
                raise
            for one in halves:
                yield from self._said(one, voice, speed, seed)

    def _stream(self, ids: Ids, voice: Voice, speed: float, seed: int) -> Iterator[Samples]:
        if len(ids) > self._most:
            raise TooLong(f"{len(ids)} tokens are more than the voice takes at once, {self._most}")
        noise, length, durations = self._scales
        feeds: dict[str, NDArray[Any]] = {
            "input": ids[None],
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([noise, length / speed, durations], np.float32),
        }
        if "sid" in self._graph.spec.input_names:
            feeds["sid"] = np.array([speaker_of(voice)], np.int64)
        made = self._with_noise(feeds, len(ids) * max(1.0, 1.0 / speed), seed)
        if self._generator is None or self._windows is None:
            yield made["output"].reshape(-1)
            return
        generator = self._generator
        conditions = {name: made[name] for name in self._conditions}

        def audio_of(window: NDArray[Any]) -> NDArray[np.float32]:
            audio: NDArray[np.float32] = generator.run({"latents": window[None], **conditions})["audio"]
            return audio.reshape(-1)

        yield from Windows(audio_of, self._windows).stream(made["latents"][0])

    def _with_noise(
        self, feeds: dict[str, NDArray[Any]], tokens: float, seed: int
    ) -> dict[str, NDArray[Any]]:
        """Raises: GraphError where the graph is never content."""
        given = at_first(self._noise, tokens)
        for _ in range(TRIES):
            drawn = {
                one.name: one.draw(seed, index, count)
                for index, (one, count) in enumerate(zip(self._noise, given, strict=True))
            }
            made = self._graph.run({**feeds, **drawn})
            taken = [int(made[one.size].reshape(-1)[0]) for one in self._noise]
            if all(need <= count for need, count in zip(taken, given, strict=True)):
                return made
            given = enough(given, taken, self._noise)
        raise GraphError(f"the voice asked for more noise {TRIES} times, at last for {max(taken)} values")


def load(folder: Folder) -> Piper:
    """Raises: GraphError."""
    return opened(Piper, folder)


def at_first(noise: Sequence[NoiseInput], tokens: float) -> list[int]:
    """How many values to give of each. tokens: at the usual speed."""
    return [min(int(SPARE * one.a_token * tokens) + 1, one.most) for one in noise]


def enough(given: Sequence[int], taken: Sequence[int], noise: Sequence[NoiseInput]) -> list[int]:
    """How many values to give next. Raises: TooLong beyond what the graph takes."""
    for need, one in zip(taken, noise, strict=True):
        if need > one.most:
            raise TooLong(
                f"the voice asks for {need} values of noise; at most {one.most} are given: send less text"
            )
    return [max(count, need) for count, need in zip(given, taken, strict=True)]
