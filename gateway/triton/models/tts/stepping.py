"""One decoder for many utterances: those that are being made take their steps together.

There is no thread for it. Whoever needs a frame and has none takes a step for all who have room, so that a batch is
as large as the crowd; the others find theirs ready. An utterance that joins is in the next batch, one that is closed
in no further one. While somebody has heard nothing yet, or runs dry, those who have enough to hear sit out.

The keys and values of past steps lie in arrays that grow by doubling, so that a runtime meets few shapes; the graph
returns what is new in each step alone. Each utterance has its own, and a batch a copy that goes on as long as the
same ones step together. What lies behind a row's end is masked by `position` and `length`, which the graph takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.graphs import GraphError, LoadedGraph
from gateway.triton.models.tts.places import LOOK_S, Audience, Gone

FIRST_ROOM = 64
"""Steps that the first array of keys and values has room for."""
AHEAD = 16
"""Steps made for an utterance that nobody took yet; then it sits out until all are taken."""
AMPLE_S = 0.5
"""Who has so much more to hear lets others go first."""
WAIT_S = 120.0
"""A frame that did not come for so long is given up: something is broken."""
TEXT = ("keys", "values")

Arrays = dict[str, NDArray[Any]]


class Utterance:
    """One on its way through the decoder."""

    def __init__(
        self,
        step: LoadedGraph,
        told: Mapping[str, NDArray[Any]],
        audience: Audience,
        rng: np.random.Generator,
        steps: tuple[int, int],
    ) -> None:
        """told: embedding [1, D], length [1, 1] and keys, values of the text, [1, layers, heads, T, d];
        steps: that it takes at least and at most, whatever the model says of its end."""
        self.audience, self.told, self.past = audience, told, Past(step)
        self.position = 0
        self.frame = np.zeros((1, *dims(step, "frame")), np.float32)
        self.ready: deque[NDArray[np.float32]] = deque()
        self.busy = self.full = self.over = False
        self.error: GraphError | None = None
        self._rng, self._units = rng, (1, *dims(step, "noise"))
        self._least, self._most = steps[0], max(1, steps[1])

    def draw(self) -> NDArray[np.float32]:
        """The noise of its next step: the same in any company."""
        return self._rng.random(self._units, np.float32)

    def took(self, made: Arrays, threshold: float) -> tuple[NDArray[np.float32], bool]:
        """made: its row of a step -> frames [bins, reduction], and whether they were the last."""
        self.frame = made["frames"][:, -1].copy()
        self.past.add(made["key"], made["value"])
        self.position += 1
        ended = self.position >= self._least and made["stop"][0, 0] >= threshold
        return made["frames"][0].T, bool(ended or self.position >= self._most)


class Stepper:
    """Safe in any thread."""

    def __init__(self, step: LoadedGraph, threshold: float, at_once: int = 1) -> None:
        """threshold: a step that says so much of its being the last is; at_once: batches that run at a time."""
        self.max_batch = max(1, step.spec.max_batch)
        self._step, self._threshold = step, threshold
        self._open: list[Utterance] = []
        self._idle = [Batch() for _ in range(at_once)]
        self._changed = threading.Condition()

    def frames(self, utterance: Utterance) -> Generator[NDArray[np.float32], None, None]:
        """[bins, reduction] of each step until its end; closed early, it takes no further step.

        Raises: GraphError where a step that it was in failed, Gone, TimeoutError.
        """
        with self._changed:
            self._open.append(utterance)
        try:
            while (frames := self._next(utterance)) is not None:
                yield frames
        finally:
            with self._changed:
                self._open.remove(utterance)
                for batch in self._idle:
                    batch.forget(utterance)

    def _next(self, utterance: Utterance) -> NDArray[np.float32] | None:
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._changed:
                if utterance.ready:
                    return utterance.ready.popleft()
                if utterance.error is not None:
                    raise utterance.error
                if utterance.over:
                    return None
                utterance.full = False
                chosen = self._choose()
                if chosen:
                    batch = self._begin(chosen)
                else:
                    self._changed.wait(LOOK_S)
            if chosen:
                self._take_step(batch, chosen)
            elif time.monotonic() >= deadline:
                raise TimeoutError("the decoder made no frame within two minutes; try again")
            if not utterance.ready and not utterance.audience.wanted:
                raise Gone

    def _begin(self, chosen: Sequence[Utterance]) -> Batch:
        batch = next((one for one in self._idle if one.fits(chosen)), self._idle[0])
        self._idle.remove(batch)
        for one in chosen:
            one.busy = True
        return batch

    def _choose(self) -> list[Utterance]:
        """Whose step is next, in the order in which they came; nobody where no further batch may run."""
        if not self._idle:
            return []
        free = [one for one in self._open if not (one.busy or one.full or one.over)]
        now = time.monotonic()
        due = {one: one.audience.due for one in free}
        if any(due[one] < now for one in free):
            free = [one for one in free if due[one] < now + AMPLE_S]
        first = sorted(free, key=lambda one: (due[one] >= now, len(one.ready), due[one]))[: self.max_batch]
        return [one for one in free if one in first]

    def _take_step(self, batch: Batch, chosen: Sequence[Utterance]) -> None:
        made: list[tuple[NDArray[np.float32], bool]] = []
        error = ""
        try:
            made = batch.step(self._step, chosen, self._threshold)
        except GraphError as failed:
            error = str(failed)
        except Exception as failed:  # nobody may wait for a step that never comes
            error = f"a step of {len(chosen)} utterances failed: {type(failed).__name__} {failed}"
        with self._changed:
            for at, one in enumerate(chosen):
                one.busy = False
                if error:
                    one.over, one.error = True, GraphError(error)
                    continue
                frames, one.over = made[at]
                one.ready.append(frames)
                one.full = len(one.ready) >= AHEAD
            self._idle.append(Batch() if error else batch)
            for one in chosen:
                if one not in self._open:
                    batch.forget(one)
            self._changed.notify_all()


class Batch:
    """What the rows of a step have in arrays of their own, kept for the next step of the same rows."""

    def __init__(self) -> None:
        self._rows: list[tuple[Utterance, int]] = []
        self._arrays: Arrays = {}

    def fits(self, rows: Sequence[Utterance]) -> bool:
        """Whether its arrays are what these rows need next."""
        return self._rows == [(one, one.position) for one in rows] and (
            len(rows) == 1 or self._arrays["past_keys"].shape[3] == _room(rows)
        )

    def forget(self, row: Utterance) -> None:
        if any(one is row for one, _ in self._rows):
            self._rows, self._arrays = [], {}

    def step(
        self, graph: LoadedGraph, rows: Sequence[Utterance], threshold: float
    ) -> list[tuple[NDArray[np.float32], bool]]:
        """Of each row its frames, and whether they were the last. Raises: GraphError."""
        if not self.fits(rows):
            self._arrays = _together(rows)
        alone = len(rows) == 1
        past = (
            {"past_keys": rows[0].past.keys, "past_values": rows[0].past.values} if alone else {}
        )  # what it has already needs no copy
        made = graph.run(
            {
                "frame": np.concatenate([one.frame for one in rows]),
                "noise": np.concatenate([one.draw() for one in rows]),
                "position": np.array([[one.position] for one in rows], np.int64),
                **self._arrays,
                **past,
            }
        )
        taken = []
        for at, one in enumerate(rows):
            position = one.position
            if not alone and position < self._arrays["past_keys"].shape[3]:
                self._arrays["past_keys"][at, :, :, position] = made["key"][at]
                self._arrays["past_values"][at, :, :, position] = made["value"][at]
            taken.append(one.took({name: array[at : at + 1] for name, array in made.items()}, threshold))
        self._rows = [(one, one.position) for one in rows]
        return taken


class Past:
    """Keys and values of the steps so far: [1, layers, heads, room, d], zeros where nothing is yet."""

    def __init__(self, step: LoadedGraph) -> None:
        layers, heads, depth = dims(step, "key")
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


def dims(graph: LoadedGraph, name: str) -> tuple[int, ...]:
    """Of an input or output without axes that vary."""
    tensor = next(one for one in (*graph.spec.inputs, *graph.spec.outputs) if one.name == name)
    return tuple(int(dim) for dim in tensor.dims)


def _room(rows: Sequence[Utterance]) -> int:
    return max(one.past.keys.shape[3] for one in rows)


def _together(rows: Sequence[Utterance]) -> Arrays:
    """What is told of each row, and the past of all where there are several, in the room of the longest."""
    if len(rows) == 1:
        return dict(rows[0].told)
    arrays = {
        name: np.concatenate([one.told[name] for one in rows]) for name in rows[0].told if name not in TEXT
    }
    for name in TEXT:
        arrays[name] = _padded([one.told[name] for one in rows])
    room = _room(rows)
    arrays["past_keys"] = _padded([one.past.keys for one in rows], room)
    arrays["past_values"] = _padded([one.past.values for one in rows], room)
    return arrays


def _padded(parts: Sequence[NDArray[np.float32]], size: int = 0) -> NDArray[np.float32]:
    """[1, layers, heads, T of its own, d] each -> [n, layers, heads, T, d], zeros behind each end."""
    _, layers, heads, _, depth = parts[0].shape
    size = size or max(part.shape[3] for part in parts)
    joined = np.zeros((len(parts), layers, heads, size, depth), np.float32)
    for at, part in enumerate(parts):
        joined[at, :, :, : part.shape[3]] = part[0]
    return joined
