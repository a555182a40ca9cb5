"""CTC: one graph from features to log-probabilities, then the best labels, batched over utterances.

Greedy: the best label of every frame, repetitions and blanks taken out. Beam: prefixes, each with the
probability of all paths that spell it, ended in blank or not (Graves' prefix search; Hannun et al. 2014 without
a language model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.engine import Samples, Word
from gateway.triton.models.asr.features_batch import FeatureBatch
from gateway.triton.models.exported import Folder
from gateway.triton.models.pieces import Pieces

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NEVER = -1e30


class Labels(NamedTuple):
    """What was decoded of one utterance."""

    tokens: list[int]
    frames: list[int]
    """Where each token begins."""
    ends: list[int]
    """The frame behind its last one."""


class CtcTranscriber:
    """`Transcriber` of a graph FEATURES [T, mels], LENGTHS -> LOG_PROBS [S, vocabulary], FRAMES.

    front.json: "features", "encoder_frame_ms", "blank", "max_s"; parameter `beam`: prefixes kept, 1 is greedy.
    """

    def __init__(self, folder: Folder) -> None:
        front = folder.front
        self._graph = folder.graph("model")
        self._features = FeatureBatch(front["features"])
        self._pieces = Pieces(folder.read_json("tokens.json"))
        self._frame_ms = float(front["encoder_frame_ms"])
        self._blank = int(front["blank"])
        self._beam = int(folder.parameter("beam", "1"))
        if self._beam < 1:
            raise ValueError(f"parameter beam is {self._beam}; it must be at least 1")
        self.max_batch = self._graph.spec.max_batch
        self.max_s = float(front["max_s"])

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        return [words_of(self._pieces, labels, self._frame_ms) for labels in self.decode(audios)]

    def decode(self, audios: Sequence[Samples]) -> list[Labels]:
        """Token by token; what is too short for a frame has none. Raises: GraphError."""
        batch = self._features.batch(audios)
        found = [Labels([], [], []) for _ in audios]
        if batch is None:
            return found
        made = self._graph.run({"FEATURES": batch.features, "LENGTHS": batch.lengths})
        log_probs, frames = made["LOG_PROBS"], made["FRAMES"].reshape(-1)
        if self._beam == 1:
            decoded = greedy(log_probs, frames, self._blank)
        else:
            decoded = beam_search(log_probs, frames, self._blank, self._beam)
        for row, labels in zip(batch.rows, decoded, strict=True):
            found[row] = labels
        return found


def transcriber(folder: Folder) -> CtcTranscriber:
    return CtcTranscriber(folder)


def words_of(pieces: Pieces, labels: Labels, frame_ms: float) -> list[Word]:
    times = [
        (round(first * frame_ms), round(end * frame_ms))
        for first, end in zip(labels.frames, labels.ends, strict=True)
    ]
    return pieces.words(labels.tokens, times)


def greedy(log_probs: Floats, frames: Ints, blank: int) -> list[Labels]:
    """log_probs [B, S, vocabulary], frames [B]: the valid ones of each."""
    return [collapse(row[:count], blank) for row, count in zip(log_probs.argmax(axis=2), frames, strict=True)]


def collapse(path: Ints, blank: int) -> Labels:
    """A label a frame -> each run of the same label once, blanks out. path [S]."""
    if not len(path):
        return Labels([], [], [])
    firsts = np.flatnonzero(np.diff(path, prepend=path[0] - 1))
    ends = np.append(firsts[1:], len(path))
    kept = path[firsts] != blank
    return Labels(path[firsts[kept]].tolist(), firsts[kept].tolist(), ends[kept].tolist())


def beam_search(log_probs: Floats, frames: Ints, blank: int, beam: int) -> list[Labels]:
    """The likeliest labelling of each utterance among `beam` prefixes kept from frame to frame; all utterances move
    on together. log_probs [B, S, vocabulary], frames [B]."""
    beams = [_Beam(blank, beam) for _ in frames]
    few = min(beam + 1, log_probs.shape[2] - 1)
    for frame in range(int(frames.max(initial=0))):
        now = log_probs[:, frame]
        likely = np.argpartition(-now, few, axis=1)[:, : few + 1]
        for row in np.flatnonzero(frames > frame):
            beams[row].advance(now[row], likely[row].tolist(), frame)
    return [one.best() for one in beams]


class _Prefix(NamedTuple):
    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    in_blank: float
    in_label: float
    """Log-probability of all its paths so far that end in blank, and in its last label."""

    @property
    def total(self) -> float:
        return float(np.logaddexp(self.in_blank, self.in_label))


class _Beam:
    def __init__(self, blank: int, size: int) -> None:
        self._blank = blank
        self._size = size
        self._prefixes = [_Prefix((), (), 0.0, NEVER)]
        self._frames = 0

    def advance(self, now: Floats, likely: Sequence[int], frame: int) -> None:
        """likely: the labels that prefixes may grow by. A prefix' own last label is always looked at."""
        self._frames = frame + 1
        grown: dict[tuple[int, ...], _Prefix] = {}

        def add(tokens: tuple[int, ...], frames: tuple[int, ...], in_blank: float, in_label: float) -> None:
            known = grown.get(tokens)
            if known is None:
                grown[tokens] = _Prefix(tokens, frames, in_blank, in_label)
                return
            # Of two ways to the same words the likelier one's times stay.
            better = frames if np.logaddexp(in_blank, in_label) > known.total else known.frames
            grown[tokens] = _Prefix(
                tokens,
                better,
                float(np.logaddexp(known.in_blank, in_blank)),
                float(np.logaddexp(known.in_label, in_label)),
            )

        blank = float(now[self._blank])
        for prefix in self._prefixes:
            total, last = prefix.total, prefix.tokens[-1] if prefix.tokens else -1
            again = prefix.in_label + float(now[last]) if prefix.tokens else NEVER
            add(prefix.tokens, prefix.frames, total + blank, again)
            for label in likely:
                if label == self._blank:
                    continue
                # The same label again is another one only behind a blank.
                reached = (prefix.in_blank if label == last else total) + float(now[label])
                add((*prefix.tokens, label), (*prefix.frames, frame), NEVER, reached)
        self._prefixes = sorted(grown.values(), key=lambda one: -one.total)[: self._size]

    def best(self) -> Labels:
        prefix = self._prefixes[0]
        return Labels(
            list(prefix.tokens), list(prefix.frames), [min(f + 1, self._frames) for f in prefix.frames]
        )
