"""Codes to samples as they come: Mimi in steps that carry their states, SNAC in windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError, LoadedGraph

Codes = NDArray[np.int64]
"""[rows, frames]"""
Samples = NDArray[np.float32]
LEAST = 2
"""Frames of a window of SNAC, after the first one."""


class Decoding(Protocol):
    """One utterance."""

    def feed(self, codes: Codes) -> Iterator[Samples]:
        """The next frames, any number; what is certain of the sound since, run by run of the graph."""
        ...

    def end(self) -> Iterator[Samples]:
        """No more frames come: the rest."""
        ...


class MimiDecoding:
    """Every frame is heard at once: nothing in Mimi looks ahead."""

    def __init__(self, graph: LoadedGraph, settings: Mapping[str, Any]) -> None:
        self._graph = graph
        self._next, self._later = int(settings["frames"]["first"]), int(settings["frames"]["later"])
        self._start = 1.0
        self._states = {s.input: np.zeros((1, *s.dims), np.float32) for s in graph.spec.states}

    def feed(self, codes: Codes) -> Iterator[Samples]:
        at = 0
        while at < codes.shape[1]:
            size, self._next = self._next, self._later
            yield self._step(codes[:, at : at + size])
            at += size

    def end(self) -> Iterator[Samples]:
        return iter(())

    def _step(self, codes: Codes) -> Samples:
        start = np.full((1, 1), self._start, np.float32)
        made = self._graph.run({"codes": codes[None], "start": start, **self._states})
        self._states = {s.input: made[s.output] for s in self._graph.spec.states}
        self._start = 0.0
        samples: Samples = made["audio"][0]
        return samples


class SnacDecoding:
    """A frame is certain once `after` frames more are there; `before` of those that were go in with it again.

    As many new frames as have come make a window: whoever decodes more slowly than the LLM speaks has larger
    ones, which cost less a frame. After the first one no window is smaller than two frames.
    """

    def __init__(self, graph: LoadedGraph, settings: Mapping[str, Any], seed: int | None) -> None:
        frames = settings["frames"]
        self._graph, self._samples = graph, int(settings["samples"])
        self._before, self._after = int(frames["before"]), int(frames["after"])
        self._least = self._most = int(frames["first"])
        self._later = int(frames["later"])
        self._noise_rows = int(settings["noise"])
        self._draw = np.random.default_rng(seed)
        self._codes = np.zeros((int(settings["rows"]), 0), np.int64)
        self._noise = np.zeros((self._noise_rows, 0), np.float32)
        self._known = 0
        """Frames held that were heard already."""

    def feed(self, codes: Codes) -> Iterator[Samples]:
        if codes.shape[1]:
            noise = self._draw.standard_normal((codes.shape[1], self._noise_rows), np.float32).T
            self._codes = np.concatenate([self._codes, codes], axis=1)
            self._noise = np.concatenate([self._noise, noise], axis=1)
        while (ready := self._codes.shape[1] - self._known - self._after) >= self._least:
            yield self._window(min(ready, self._most))
            # The first frame alone: somebody waits in silence for it.
            self._least, self._most = LEAST, self._later

    def end(self) -> Iterator[Samples]:
        while left := self._codes.shape[1] - self._known:
            yield self._window(min(left, self._later))

    def _window(self, new: int) -> Samples:
        until = min(self._codes.shape[1], self._known + new + self._after)
        feeds: dict[str, NDArray[Any]] = {"codes": self._codes[None, :, :until]}
        if self._noise_rows:
            feeds["noise"] = np.ascontiguousarray(self._noise[None, :, :until])
        audio: Samples = self._graph.run(feeds)["audio"][0]
        samples = audio[self._known * self._samples : (self._known + new) * self._samples]
        kept = max(0, self._known + new - self._before)
        self._codes, self._noise = self._codes[:, kept:], self._noise[:, kept:]
        self._known += new - kept
        return samples


class Decoder:
    """A codec's graph, and how its utterances are decoded."""

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError."""
        self._settings = folder.front
        self._graph = folder.graph("decoder")
        if folder.front["codec"] not in ("mimi", "snac"):
            raise GraphError(f"front.json names an unknown codec: {folder.front['codec']}")

    def begin(self, seed: int | None) -> Decoding:
        if self._settings["codec"] == "mimi":
            return MimiDecoding(self._graph, self._settings)
        return SnacDecoding(self._graph, self._settings, seed)
