"""SpeechT5 and its like: the text once, then frames step by step, and audio from them in windows as they come.

The keys and values of past steps lie in an array that grows by doubling, so that a runtime meets few shapes; the
graph returns what is new in each step alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError, LoadedGraph
from gateway.triton.models.text import load_text
from gateway.triton.models.tts.common import Heard, Samples, can_be_said, fixed_seed, hand_on, read_voices
from gateway.triton.models.tts.windows import Windowing, Windows, through
from gateway.triton.models.voices import Refused, Voice

PIECE_CHARS = 160
NOTHING = np.zeros(0, np.float32)
FIRST_ROOM = 64
"""Steps that the first array of keys and values has room for."""


class Autoregressive:
    """`Engine` of an exported acoustic model that makes a frame from those before, and its vocoder."""

    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError, ValueError."""
        front = folder.front
        self.rate = int(front["rate"])
        self.voices = read_voices(front["voices"])
        self._told = {str(one["name"]): one for one in front["voices"]}
        self._say = load_text(folder)
        self._encoder, self._step = folder.graph("encoder"), folder.graph("step")
        self._vocoder = folder.graph("vocoder")
        self._windowing = Windowing.of(front["windows"])
        self._embeddings: NDArray[np.float32] = np.load(folder.path("embeddings.npy"))
        self._seed = fixed_seed(folder)
        self._most_ids, self._most_steps = int(front["most_ids"]), int(front["most_steps"])
        self._threshold = float(front["threshold"])
        self._shortest, self._longest = float(front["shortest"]), float(front["longest"])
        self._made_at_once = int(_dims(self._step, "frames")[0])

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        if not can_be_said(text):
            return
        rng = np.random.default_rng(self._seed)
        hand_on(self.stream(self._say(text), voice, speed, rng), heard)

    def audio(
        self, said: str | NDArray[np.int64], seed: int = 0, voice: str = "", speed: float = 1.0
    ) -> Samples:
        """All of a text, or of its ids [n], as the graphs make it."""
        ids = self._say(said) if isinstance(said, str) else said
        chosen = next(one for one in self.voices if voice in ("", one.name))
        made = self.stream(ids, chosen, speed, np.random.default_rng(seed))
        return np.concatenate([NOTHING, *made])

    def stream(
        self, ids: NDArray[np.int64], voice: Voice, speed: float, rng: np.random.Generator
    ) -> Iterator[Samples]:
        """Raises: Refused for a piece that is too long, GraphError."""
        if len(ids) > self._most_ids:
            raise Refused(
                f"a piece of the text has {len(ids)} signs; at most {self._most_ids} are said in one go"
            )
        windows = Windows(through(self._vocoder, "mel", "audio"), self._windowing)
        paced = Paced(speed)
        for frames in self._frames(ids, self._embeddings[[int(self._told[voice.name]["speaker"])]], rng):
            yield from windows.push(paced(frames))
            yield NOTHING
        yield from windows.end()

    def _frames(
        self, ids: NDArray[np.int64], embedding: NDArray[np.float32], rng: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """[bins, reduction] of each step, until the model says that it has ended, or it has gone on for too long."""
        length = np.array([[len(ids)]], np.int64)
        text = self._encoder.run({"ids": ids[None], "length": length})
        least = int(len(ids) * self._shortest / self._made_at_once)
        most = min(int(len(ids) * self._longest / self._made_at_once), self._most_steps)
        past = Past(self._step)
        frame = np.zeros((1, *_dims(self._step, "frame")), np.float32)
        units = (1, *_dims(self._step, "noise"))
        for step in range(max(1, most)):
            made = self._step.run(
                {
                    "frame": frame, "noise": rng.random(units, np.float32), "embedding": embedding,
                    "position": np.array([[step]], np.int64), "length": length,
                    "keys": text["keys"], "values": text["values"],
                    "past_keys": past.keys, "past_values": past.values,
                }
            )  # fmt: skip
            yield made["frames"][0].T
            if step + 1 >= least and made["stop"][0, 0] >= self._threshold:
                return
            frame = np.ascontiguousarray(made["frames"][:, -1])
            past.add(made["key"], made["value"])


def load(folder: Folder) -> Autoregressive:
    """Raises: GraphError."""
    try:
        return Autoregressive(folder)
    except (KeyError, ValueError, OSError) as error:
        raise GraphError(f"{folder.version}/front.json: {type(error).__name__} {error}") from None


class Past:
    """Keys and values of the steps so far: [1, layers, heads, room, d], zeros where nothing is yet."""

    def __init__(self, step: LoadedGraph) -> None:
        layers, heads, depth = _dims(step, "key")
        self._most = step.spec.axis("past").most
        self._count = 0
        shape = (1, layers, heads, min(FIRST_ROOM, self._most), depth)
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add(self, key: NDArray[np.float32], value: NDArray[np.float32]) -> None:
        """[1, layers, heads, d] each. What has no room at the very end is not needed: no step follows."""
        room = self.keys.shape[3]
        if self._count == room and room < self._most:
            more = [(0, 0)] * 3 + [(0, min(room, self._most - room)), (0, 0)]
            self.keys, self.values = np.pad(self.keys, more), np.pad(self.values, more)
        if self._count < self.keys.shape[3]:
            self.keys[:, :, :, self._count], self.values[:, :, :, self._count] = key, value
        self._count += 1


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


def _dims(graph: LoadedGraph, name: str) -> tuple[int, ...]:
    """Of an input or output without axes that vary."""
    tensor = next(one for one in (*graph.spec.inputs, *graph.spec.outputs) if one.name == name)
    return tuple(int(dim) for dim in tensor.dims)
