"""SpeechT5 and its like: the text once, then frames step by step, and audio from them in windows as they come.

All that are spoken at a time take their steps together (stepping.py). `step_batches`: how many batches of steps run
at a time; as many as half of the cores, or one where the server runs the graphs (graphs_by: triton).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.text import load_text
from gateway.triton.models.tts.common import (
    Heard,
    Samples,
    can_be_said,
    fixed_seed,
    hand_on,
    named,
    opened,
    read_voices,
    speaker_of,
)
from gateway.triton.models.tts.places import Audience, Gone, Place
from gateway.triton.models.tts.stepping import Stepper, Utterance, dims
from gateway.triton.models.tts.windows import Windowing, Windows, through
from gateway.triton.models.turns import Turns
from gateway.triton.models.voices import Refused, Voice

PIECE_CHARS = 160
NOTHING = np.zeros(0, np.float32)


class Autoregressive:
    """`Engine` of an exported acoustic model that makes a frame from those before, and its vocoder."""

    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError, ValueError."""
        front = folder.front
        self.rate = int(front["rate"])
        self.voices = read_voices(front["voices"])
        self._say = load_text(folder)
        self._encoder, self._step = folder.graph("encoder"), folder.graph("step")
        self._vocoder = folder.graph("vocoder")
        self._windowing = Windowing.of(front["windows"])
        self._embeddings: NDArray[np.float32] = np.load(folder.path("embeddings.npy"))
        self._seed = fixed_seed(folder)
        self._most_ids, self._most_steps = int(front["most_ids"]), int(front["most_steps"])
        self._shortest, self._longest = float(front["shortest"]), float(front["longest"])
        self._made_at_once = int(dims(self._step, "frames")[0])
        cores = len(os.sched_getaffinity(0))
        usual = 1 if folder.parameter("graphs_by") == "triton" else max(1, cores // 2)
        at_once = int(folder.parameter("step_batches", str(usual)))
        if at_once < 1:
            raise ValueError(f"step_batches is {at_once}; at least 1 must run")
        self._stepper = Stepper(self._step, float(front["threshold"]), at_once)
        self._turns = Turns(cores)
        # All may ask: what works has a place in `_turns`, and steps are taken together.
        self.threads = int(folder.parameter("max_streams", "128"))

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        if not can_be_said(text):
            return
        rng = np.random.default_rng(self._seed)
        with closing(self.stream(self._say(text), voice, speed, rng, heard)) as made, suppress(Gone):
            hand_on(made, heard)

    def audio(
        self, said: str | NDArray[np.int64], seed: int = 0, voice: str = "", speed: float = 1.0
    ) -> Samples:
        """All of a text, or of its ids [n], as the graphs make it."""
        ids = self._say(said) if isinstance(said, str) else said
        chosen = named(self.voices, voice)
        made = self.stream(ids, chosen, speed, np.random.default_rng(seed))
        return np.concatenate([NOTHING, *made])

    def stream(
        self,
        ids: NDArray[np.int64],
        voice: Voice,
        speed: float,
        rng: np.random.Generator,
        heard: Heard = lambda samples: True,
    ) -> Generator[Samples, None, None]:
        """heard: is asked, while this waits, whether anybody still listens.

        Raises: Refused for a piece that is too long, GraphError, Gone, TimeoutError.
        """
        if len(ids) > self._most_ids:
            raise Refused(
                f"a piece of the text has {len(ids)} signs; at most {self._most_ids} are said in one go"
            )
        audience = Audience(heard)
        place = Place(self._turns, audience, "the vocoder")
        vocode = through(self._vocoder, "mel", "audio")

        def audio_of(window: NDArray[Any]) -> Samples:
            with place:
                return vocode(window)

        windows, paced = Windows(audio_of, self._windowing), Paced(speed)
        embedding = self._embeddings[[speaker_of(voice)]]
        with place:
            told = self._read(ids, embedding)
        utterance = Utterance(self._step, told, audience, rng, self._steps(len(ids)))
        with closing(self._stepper.frames(utterance)) as steps:
            for frames in steps:
                for samples in windows.push(paced(frames)):
                    audience.made_s += len(samples) / self.rate
                    yield samples
                yield NOTHING
        yield from windows.end()

    def _read(self, ids: NDArray[np.int64], embedding: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What all steps are told: text and speaker."""
        length = np.array([[len(ids)]], np.int64)
        text = self._encoder.run({"ids": ids[None], "length": length})
        return {"embedding": embedding, "length": length, "keys": text["keys"], "values": text["values"]}

    def _steps(self, ids: int) -> tuple[int, int]:
        """The fewest and the most of a text of so many."""
        least, most = (int(ids * each / self._made_at_once) for each in (self._shortest, self._longest))
        return least, min(most, self._most_steps)


def load(folder: Folder) -> Autoregressive:
    """Raises: GraphError."""
    return opened(Autoregressive, folder)


class Paced:
    """Frames that come piece by piece, as many times faster as `speed` says: between two, in a straight line.

    The vocoder makes their pitch from what is in them, so it stays. At speed 1 nothing changes.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._at = 0.0
        """Where the next frame is taken from, counted from `_held`'s first."""
        self._held: NDArray[np.float32] | None = None

    def __call__(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """[bins, n] -> [bins, about n / speed]"""
        if self._speed == 1.0:
            return frames
        held = frames if self._held is None else np.concatenate([self._held, frames], axis=1)
        last = held.shape[1] - 1
        places = self._at + self._speed * np.arange(max(0, int((last - self._at) // self._speed + 1)))
        places = places[places <= last]
        below = np.minimum(places.astype(np.int64), last)
        above = np.minimum(below + 1, last)
        part = (places - below).astype(np.float32)
        # What comes next may lie between the last frame and the one that follows it.
        following = self._at + self._speed * len(places)
        drop = min(int(following), last)
        self._held, self._at = held[:, drop:], following - drop
        made: NDArray[np.float32] = held[:, below] * (1 - part) + held[:, above] * part
        return made
