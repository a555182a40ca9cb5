"""FastSpeech2 and its like: ids become hidden states and durations, these frames, and frames audio, in windows.

The frames of a whole piece of text are there at once, and cost little; the vocoder is what takes time, so its
first window is small, and between windows others may go first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.text import load_text
from gateway.triton.models.tts.common import (
    Heard,
    Samples,
    can_be_said,
    hand_on,
    named,
    opened,
    read_voices,
    speaker_of,
)
from gateway.triton.models.tts.windows import Windowing, Windows, through
from gateway.triton.models.voices import Refused, Voice

PIECE_CHARS = 200
"""About 12 s: the frames of a piece are made in one go."""


class Acoustic:
    """`Engine` of an exported acoustic model and its vocoder."""

    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError, ValueError."""
        front = folder.front
        self.rate = int(front["rate"])
        self.voices = read_voices(front["voices"])
        self._languages = {str(one["name"]): int(one.get("language_id", 0)) for one in front["voices"]}
        self._say = load_text(folder)
        self._encoder, self._decoder = folder.graph("encoder"), folder.graph("decoder")
        self._vocoder = folder.graph("vocoder")
        self._windowing = Windowing.of(front["windows"])
        self._slowness = float(front["slowness"])
        self._most_ids, self._most_frames = int(front["most_ids"]), int(front["most_frames"])
        inputs = self._encoder.spec.input_names
        self._embeddings = np.load(folder.path("embeddings.npy")) if "embedding" in inputs else None
        self._conditions = [name for name in ("speaker", "language", "embedding") if name in inputs]

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        if can_be_said(text):
            hand_on(self.stream(self._say(text), voice, speed), heard)

    def audio(
        self, said: str | NDArray[np.int64], seed: int = 0, voice: str = "", speed: float = 1.0
    ) -> Samples:
        """All of a text, or of its ids [n], as the graphs make it. seed: there is no chance in it."""
        ids = self._say(said) if isinstance(said, str) else said
        chosen = named(self.voices, voice)
        return np.concatenate([np.zeros(0, np.float32), *self.stream(ids, chosen, speed)])

    def stream(self, ids: NDArray[np.int64], voice: Voice, speed: float) -> Iterator[Samples]:
        """Raises: Refused for a piece that is too long, GraphError."""
        mel = self._mel(ids, voice, speed)
        yield from Windows(through(self._vocoder, "mel", "audio"), self._windowing).stream(mel)

    def _mel(self, ids: NDArray[np.int64], voice: Voice, speed: float) -> NDArray[np.float32]:
        """[bins, frames]"""
        if len(ids) > self._most_ids:
            raise Refused(
                f"a piece of the text has {len(ids)} sounds; at most {self._most_ids} are said in one go"
            )
        feeds: dict[str, NDArray[Any]] = {"ids": ids[None], "length": np.array([[len(ids)]], np.int64)}
        for name in self._conditions:
            feeds[name] = self._condition(name, voice)
        made = self._encoder.run(feeds)
        counts = frame_counts(made["durations"][0], self._slowness / speed)
        frames = np.repeat(made["hidden"][0], counts, axis=0)
        if len(frames) > self._most_frames:
            raise Refused(
                f"a piece of the text would take {len(frames)} frames; at most {self._most_frames} do"
            )
        mel: NDArray[np.float32] = self._decoder.run(
            {"hidden": frames[None], "length": np.array([[len(frames)]], np.int64)}
        )["mel"][0]
        return mel

    def _condition(self, name: str, voice: Voice) -> NDArray[Any]:
        if self._embeddings is not None and name == "embedding":
            found: NDArray[np.float32] = self._embeddings[[speaker_of(voice)]]
            return found
        return np.array([[speaker_of(voice) if name == "speaker" else self._languages[voice.name]]], np.int64)


def load(folder: Folder) -> Acoustic:
    """Raises: GraphError."""
    return opened(Acoustic, folder)


def frame_counts(durations: NDArray[np.float32], slowness: float) -> NDArray[np.int64]:
    """durations: frames of each id, not rounded -> whole frames, as transformers' length regulator rounds them:
    first by themselves, then what `slowness` makes of them; where none has any, each has one."""
    counts = np.round(durations).astype(np.int64)
    if slowness != 1.0:
        counts = np.round(counts.astype(np.float32) * np.float32(slowness)).astype(np.int64)
    return counts if counts.any() else np.ones_like(counts)
