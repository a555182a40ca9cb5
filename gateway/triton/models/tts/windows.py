"""Audio, piece by piece, from a decoder that is convolutional over time.

A vocoder sees each frame through its neighbours alone: `left` frames before it and `right` frames after
it decide its samples, nothing else does. So a stretch of frames that is run with that much around it says
exactly what the run of the whole would say there, and what the overlaps say is thrown away. The first
and the last frames of all have no neighbours in the whole run either: there the window ends as well.

The first window is small, so that something is heard early; later ones are larger, so that less is run
twice. Lengths are multiples of `grain`: runtimes that prepare themselves for each shape anew meet few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

GROWTH = 3
"""How many times more new frames than the window before one has, up to `later`."""

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Frames [..., T] -> [..., T * hop]."""


class Runs(Protocol):
    """A loaded graph."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]: ...


@dataclass(frozen=True, slots=True)
class Windowing:
    """How a graph is windowed. All but `hop` in frames. Raises: ValueError."""

    hop: int
    """Samples (or whatever the graph makes) for each frame."""
    left: int
    """Frames before one that its samples depend on ..."""
    right: int
    """... and after it: the receptive field, or more."""
    first: int
    """New frames of the first window ..."""
    later: int
    """... and, at most, of all others."""
    grain: int = 1
    """All windows after the first are a multiple of this long; only an utterance too short for that is not."""

    def __post_init__(self) -> None:
        if min(self.hop, self.first, self.grain) < 1 or min(self.left, self.right) < 0:
            raise ValueError(f"{self}: hop, first and grain are at least 1, left and right at least 0")
        if self.later < self.first:
            raise ValueError(f"{self}: later windows are not smaller than the first")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Windowing:
        """From a front.json: hop, left, right, first, later and, where it is not 1, grain."""
        names = ("hop", "left", "right", "first", "later", "grain")
        unknown = sorted(set(settings) - set(names))
        missing = sorted(set(names[:-1]) - set(settings))
        if unknown or missing:
            raise ValueError(f"windows have {', '.join(names)}: unknown {unknown}, missing {missing}")
        return cls(**{name: int(value) for name, value in settings.items()})

    def size(self, index: int) -> int:
        """Frames of the window with this index, where so many are left."""
        if index == 0:
            return self.first + self.right
        new = min(self.later, self.first * GROWTH ** min(index, 20))
        return self.rounded(self.left + new + self.right)

    @property
    def largest(self) -> int:
        return self.rounded(self.left + self.later + self.right)

    def rounded(self, frames: int) -> int:
        return -(-frames // self.grain) * self.grain


class Windows:
    """One utterance on its way through a graph: frames in as they come, samples out as soon as they are certain.

    Iterators must be used up before the next call. What was pushed is held only as far as it is needed.
    """

    def __init__(self, run: Run, windowing: Windowing) -> None:
        self._run, self._windowing = run, windowing
        self._held: NDArray[Any] | None = None
        self._dropped = 0
        """Frames before those that are held."""
        self._total = self._done = self._index = 0
        self._ended = False

    def push(self, frames: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """frames: [..., T], any T. Yields [..., n * hop] in order, nothing before enough frames are there."""
        if self._ended:
            raise RuntimeError("the utterance has ended; a new one needs new windows")
        self._held = frames if self._held is None else np.concatenate([self._held, frames], axis=-1)
        self._total += frames.shape[-1]
        yield from self._ready()

    def end(self) -> Iterator[NDArray[np.float32]]:
        """No more frames will come. Yields all that is left."""
        self._ended = True
        yield from self._ready()

    def stream(self, frames: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """A whole utterance, [..., T]."""
        yield from self.push(frames)
        yield from self.end()

    def _ready(self) -> Iterator[NDArray[np.float32]]:
        while self._held is not None and self._done < self._total:
            window = self._next()
            if window is None:
                break
            start, size, until = window
            samples = self._samples(start, size, until)
            self._done, self._index = until, self._index + 1
            self._forget()
            yield samples

    def _next(self) -> tuple[int, int, int] | None:
        """Where the next window starts, its length, and up to where it is exact; None: wait for more frames."""
        windowing = self._windowing
        start = max(0, self._done - windowing.left)
        usual = windowing.size(self._index)
        need = self._total - start
        rounded = windowing.rounded(need)
        if self._ended and need == usual:
            return start, usual, self._total
        if self._ended and rounded <= min(windowing.rounded(usual), self._total):
            return self._total - rounded, rounded, self._total
        if need >= usual:
            return start, usual, start + usual - windowing.right
        if not self._ended:
            return None
        # Too little is left for the usual window, and the rounded one would begin before the first frame.
        shorter = rounded - windowing.grain
        until = start + shorter - windowing.right
        rest = self._total - max(0, until - windowing.left)
        if until > self._done and windowing.rounded(rest) <= self._total:
            return start, shorter, until
        return start, need, self._total

    def _samples(self, start: int, size: int, until: int) -> NDArray[np.float32]:
        assert self._held is not None
        hop, begin = self._windowing.hop, start - self._dropped
        made = self._run(np.ascontiguousarray(self._held[..., begin : begin + size]))
        if made.shape[-1] != size * hop:
            raise ValueError(f"{size} frames became {made.shape[-1]} samples, not {size} * {hop}")
        return made[..., (self._done - start) * hop : (until - start) * hop]

    def _forget(self) -> None:
        """Whatever the last window needs is kept: it may begin earlier than the next one would."""
        assert self._held is not None
        keep = min(self._done - self._windowing.left, self._total - self._windowing.largest)
        if keep > self._dropped:
            self._held = self._held[..., keep - self._dropped :]
            self._dropped = keep


def through(
    graph: Runs, frames: str, samples: str, conditions: Mapping[str, NDArray[Any]] | None = None
) -> Run:
    """A run for `Windows` by a loaded graph with a batch dimension.

    frames: the name of the input, [1, ..., T]; samples: of the output, [1, ..., T * hop]; conditions: further
    inputs, each with its batch dimension, the same for all windows.
    """

    def run(window: NDArray[Any]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = graph.run({frames: window[None], **(conditions or {})})[samples][0]
        return made

    return run
