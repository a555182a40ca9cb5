"""VITS: text and noise become durations and a prior, the prior latents, the latents audio.

Three graphs; what depends on data lies between them: how many frames a token has is decided here. The
prior is stretched to frames at once, that is cheap; from there on latents and audio are made window by
window, so that the first sound costs little whatever the length of the text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
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
    speaker_of,
)
from gateway.triton.models.tts.windows import Windowing, Windows
from gateway.triton.models.voices import Voice

PIECE_CHARS = 160
MOST_FRAMES = 500
"""Of one token. A sound that should last longer is a mistake of the model, and would be minutes of it."""


class Vits:
    """`Engine` of an exported VITS; also for MMS-TTS."""

    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError."""
        front = folder.front
        self.rate = int(front["sample_rate"])
        self.voices = read_voices(front["voices"])
        self._say = load_text(folder)
        self._text, self._flow = folder.graph("text"), folder.graph("flow")
        self._decoder = folder.graph("decoder")
        self._embeddings = (
            np.load(folder.path("speakers.npy")) if "speaker" in self._decoder.spec.input_names else None
        )
        self._rate_of_speech = float(front["speaking_rate"])
        self._noise, self._duration_noise = float(front["noise_scale"]), float(front["noise_scale_duration"])
        self._seed = fixed_seed(folder)
        self._flow_windows = Windowing.of(front["flow_windows"])
        self._decoder_windows = Windowing.of(front["decoder_windows"])

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        if not can_be_said(text):
            return
        rng = np.random.default_rng(self._seed)
        hand_on(self._stream(self._say(text), voice, speed, rng), heard)

    def audio(self, said: str | Ids, seed: int, voice: str = "", speed: float = 1.0) -> Samples:
        """All of a text or of its tokens, as the graphs make it: no level set, nothing trimmed."""
        ids = self._say(said) if isinstance(said, str) else said
        rng = np.random.default_rng(seed)
        return np.concatenate(list(self._stream(ids, named(self.voices, voice), speed, rng)))

    def _stream(self, ids: Ids, voice: Voice, speed: float, rng: np.random.Generator) -> Iterator[Samples]:
        most = self._text.spec.axis("tokens").most
        condition = {} if self._embeddings is None else {"speaker": self._embeddings[[speaker_of(voice)]]}
        for at in range(0, len(ids), most):
            prior = self._prior(ids[at : at + most], condition, speed, rng)
            yield from self._windows(prior, condition)

    def _prior(
        self, ids: Ids, condition: Mapping[str, NDArray[Any]], speed: float, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """[C, F]: where the flow begins, with its noise."""
        feeds: dict[str, NDArray[Any]] = {
            "ids": ids[None],
            "length": np.array([len(ids)], np.int64),
            **condition,
        }
        if "noise" in self._text.spec.input_names:
            noise = rng.standard_normal((1, 2, len(ids)), np.float32)
            feeds["noise"] = noise * np.float32(self._duration_noise)
        made = self._text.run(feeds)
        counts = frame_counts(made["log_durations"][0], self._rate_of_speech * speed)
        mean, log_deviation = stretched(made["mean"][0], counts), stretched(made["log_deviation"][0], counts)
        noise = rng.standard_normal(mean.shape, np.float32)
        prior: NDArray[np.float32] = mean + noise * np.exp(log_deviation) * np.float32(self._noise)
        return prior

    def _windows(
        self, prior: NDArray[np.float32], condition: Mapping[str, NDArray[Any]]
    ) -> Iterator[Samples]:
        def latents_of(window: NDArray[Any]) -> NDArray[np.float32]:
            length = np.array([window.shape[-1]], np.int64)
            made: NDArray[np.float32] = self._flow.run(
                {"prior": window[None], "length": length, **condition}
            )["latents"][0]
            return made

        def audio_of(window: NDArray[Any]) -> NDArray[np.float32]:
            made: NDArray[np.float32] = self._decoder.run({"latents": window[None], **condition})["audio"][0]
            return made

        decoder = Windows(audio_of, self._decoder_windows)
        for latents in Windows(latents_of, self._flow_windows).stream(prior):
            yield from decoder.push(latents)
        yield from decoder.end()


def load(folder: Folder) -> Vits:
    """Raises: GraphError."""
    return opened(Vits, folder)


def frame_counts(log_durations: NDArray[np.float32], rate_of_speech: float) -> NDArray[np.int64]:
    """[n] whole frames of each token, every one at least one: as transformers' VitsModel rounds them up."""
    scale = np.float32(1.0 / rate_of_speech)
    frames = np.ceil(np.minimum(np.exp(np.minimum(log_durations, np.float32(50))) * scale, MOST_FRAMES))
    counts: NDArray[np.int64] = np.maximum(frames, 1).astype(np.int64)
    return counts


def stretched(values: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """[C, n] of tokens -> [C, F] of frames."""
    return np.repeat(values, counts, axis=-1)
