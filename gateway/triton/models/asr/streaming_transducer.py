"""A streaming transducer of three graphs: encoder with states, decoder over the last tokens, joiner.

Greedy search as sherpa-onnx does it: at most one token a frame. Of all frames that are left the joiner says at
once where the next token is, so it runs once a token and not once a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.rows import Carried, Row
from gateway.triton.models.exported import Folder

Array = NDArray[Any]
NEVER = np.zeros(0, dtype=np.float32)


class Hypothesis:
    """The last tokens of an utterance, and what the decoder makes of them."""

    __slots__ = ("context", "predicted")

    def __init__(self, context: tuple[int, ...]) -> None:
        self.context = context
        self.predicted: NDArray[np.float32] = NEVER


class StreamingTransducer:
    """`Stepper` of the graphs "encoder", "decoder" and "joiner". front.json: window, shift, context_size,
    blank, silent (further ids that are no tokens). Raises: GraphError, KeyError."""

    def __init__(self, folder: Folder) -> None:
        front = folder.front
        self._encoder, self._decoder = folder.graph("encoder"), folder.graph("decoder")
        self._joiner = folder.graph("joiner")
        self._carried = Carried(self._encoder.spec)
        self.max_batch = self._encoder.spec.max_batch
        self.window, self.shift, self.lead = int(front["window"]), int(front["shift"]), 0
        self.frames = int(self._encoder.spec.outputs[0].dims[0])
        self.whole_chunks = True
        self._blank = int(front["blank"])
        self._silent = np.array([self._blank, *front.get("silent", ())], dtype=np.int64)
        self._context = int(front["context_size"])
        self._wanted = ["ENCODED", *(state.output for state in self._encoder.spec.states)]

    def begin(self, language: str) -> Hypothesis:
        return Hypothesis((self._blank,) * self._context)

    def step(
        self,
        chunks: NDArray[np.float32],
        valid: Sequence[int],
        rows: Sequence[Row],
        kept: Sequence[Hypothesis],
    ) -> list[list[tuple[int, int]]]:
        made = self._encoder.run({"FEATURES": chunks} | self._carried.feeds(rows), self._wanted)
        self._carried.keep(rows, made)
        self._predict([one for one in kept if one.predicted is NEVER])
        said: list[list[tuple[int, int]]] = [[] for _ in kept]
        at = [0] * len(kept)
        while unread := [row for row, position in enumerate(at) if position < self.frames]:
            found = self._next(made["ENCODED"], unread, at, kept)
            changed = []
            for row, (token, frame) in zip(unread, found, strict=True):
                at[row] = frame + 1
                if token is not None:
                    said[row].append((token, frame))
                    kept[row].context = (*kept[row].context[1:], token)
                    changed.append(kept[row])
            self._predict(changed)
        return said

    def _next(
        self, encoded: Array, unread: Sequence[int], at: Sequence[int], kept: Sequence[Hypothesis]
    ) -> list[tuple[int | None, int]]:
        """Of each row that is left: its next token and the frame of it, or None and the last frame."""
        sizes = [self.frames - at[row] for row in unread]
        frames = np.concatenate([encoded[row, at[row] :] for row in unread])
        predicted = np.repeat(np.stack([kept[row].predicted for row in unread]), sizes, axis=0)
        tokens = np.concatenate(
            [
                self._joiner.run(
                    {"ENCODED": frames[first:end], "PREDICTED": predicted[first:end]}, ["LOGITS"]
                )["LOGITS"].argmax(1)
                for first, end in _batches(len(frames), self._joiner.spec.max_batch)
            ]
        )
        result: list[tuple[int | None, int]] = []
        first = 0
        for row, size in zip(unread, sizes, strict=True):
            mine = tokens[first : first + size]
            spoken = np.flatnonzero(~np.isin(mine, self._silent))
            first += size
            if len(spoken):
                result.append((int(mine[spoken[0]]), at[row] + int(spoken[0])))
            else:
                result.append((None, self.frames - 1))
        return result

    def _predict(self, hypotheses: Sequence[Hypothesis]) -> None:
        for first, end in _batches(len(hypotheses), self._decoder.spec.max_batch):
            some = hypotheses[first:end]
            contexts = np.array([one.context for one in some], dtype=np.int64)
            made = self._decoder.run({"CONTEXT": contexts}, ["PREDICTED"])["PREDICTED"]
            for one, predicted in zip(some, made, strict=True):
                one.predicted = predicted


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, count)) for first in range(0, count, size)]
