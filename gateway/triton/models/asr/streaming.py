"""Recognisers that hear chunk by chunk: a graph takes a fixed number of frames and the states of the chunk before.

Chunks of all utterances that have one ready go through the graph together, running and new ones alike. Greedy
search never takes a token back, so every word but the last, which may still grow, is stable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.engine import Heard, Job, Word
from gateway.triton.models.asr.rows import Row
from gateway.triton.models.exported import Folder
from gateway.triton.models.features import LogMel
from gateway.triton.models.features_fbank import Fbank
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.pieces import Pieces

Floats = NDArray[np.float32]
RATE = 16_000
AT_ONCE_S = 1


class Stepper(Protocol):
    """A model's graphs: one chunk of each utterance becomes tokens."""

    max_batch: int
    window: int
    """Frames that a chunk is made of."""
    shift: int
    """Frames from one chunk to the next."""
    lead: int
    """Frames before the first one of an utterance; the graph ignores what is in them."""
    frames: int
    """Encoder frames of a chunk."""
    whole_chunks: bool
    """Whether the last chunk must be full: what is left of it then is not heard."""

    def begin(self, language: str) -> Any:
        """What `step` needs to know of an utterance from chunk to chunk."""
        ...

    def step(
        self, chunks: Floats, valid: Sequence[int], rows: Sequence[Row], kept: Sequence[Any]
    ) -> list[list[tuple[int, int]]]:
        """chunks [batch, window, mels]; valid: frames of each that were heard (with the lead) -> of each
        utterance the tokens and the chunk's encoder frame of each. Raises: GraphError."""
        ...


class Utterance:
    def __init__(self, stream: Any, lead: int, mels: int, kept: Any) -> None:
        self.stream = stream
        self.frames: Floats = np.zeros((lead, mels), dtype=np.float32)
        """Not yet given to the graph."""
        self.row = Row()
        self.kept = kept
        self.chunks = 0
        self.samples = 0
        """Heard, without the silence added behind them."""
        self.ended = False
        self.settled: list[Word] = []
        self.open: list[tuple[int, int]] = []
        """Tokens and encoder frames of the words that are not settled."""


class StreamingRecogniser:
    """`Recogniser` of a step graph."""

    def __init__(
        self, stepper: Stepper, features: LogMel | Fbank, pieces: Pieces, *, frame_ms: float, tail_s: float
    ) -> None:
        """frame_ms: of an encoder frame; tail_s: silence added at the end of an utterance."""
        self.max_batch = stepper.max_batch
        self.at_once = AT_ONCE_S * RATE
        self._stepper = stepper
        self._features = features
        self._pieces = pieces
        self._frame_ms = frame_ms
        self._tail = np.zeros(math.ceil(tail_s * RATE), dtype=np.float32)

    def begin(self, language: str = "") -> Utterance:
        stepper = self._stepper
        return Utterance(
            self._features.stream(), stepper.lead, self._features.settings.mels, stepper.begin(language)
        )

    def step(self, jobs: Sequence[Job[Utterance]]) -> list[Heard | Exception]:
        results: list[Heard | Exception | None] = [self._take(job) for job in jobs]
        waiting = [job.utterance for job, result in zip(jobs, results, strict=True) if result is None]
        while ready := [utterance for utterance in waiting if self._is_ready(utterance)]:
            for first in range(0, len(ready), self.max_batch):
                self._advance(ready[first : first + self.max_batch])
        return [
            self._heard(job.utterance, job.last) if result is None else result
            for job, result in zip(jobs, results, strict=True)
        ]

    def _take(self, job: Job[Utterance]) -> Exception | None:
        utterance = job.utterance
        if utterance.ended:
            return ValueError("the utterance has ended: START another")
        parts = [utterance.frames, utterance.stream.push(job.audio)]
        utterance.samples += len(job.audio)
        if job.last:
            utterance.ended = True
            tail = self._tail if utterance.samples else self._tail[:0]  # no audio is no text
            parts += [utterance.stream.push(tail), utterance.stream.end()]
        utterance.frames = np.concatenate(parts)
        return None

    def _is_ready(self, utterance: Utterance) -> bool:
        waiting = len(utterance.frames)
        if waiting >= self._stepper.window:
            return True
        heard = waiting - (self._stepper.lead if utterance.chunks == 0 else 0)
        return utterance.ended and heard > 0 and not self._stepper.whole_chunks

    def _advance(self, batch: Sequence[Utterance]) -> None:
        stepper = self._stepper
        chunks = np.zeros((len(batch), stepper.window, self._features.settings.mels), dtype=np.float32)
        valid = [min(len(utterance.frames), stepper.window) for utterance in batch]
        for chunk, count, utterance in zip(chunks, valid, batch, strict=True):
            chunk[:count] = utterance.frames[:count]
        said = stepper.step(chunks, valid, [one.row for one in batch], [one.kept for one in batch])
        for utterance, tokens in zip(batch, said, strict=True):
            utterance.frames = utterance.frames[stepper.shift :]
            before = utterance.chunks * stepper.frames
            utterance.open += [(token, before + frame) for token, frame in tokens]
            utterance.chunks += 1

    def _heard(self, utterance: Utterance, last: bool) -> Heard:
        ids = [token for token, _ in utterance.open]
        # The silence behind the end is none of the client's.
        most = utterance.samples * 1000 // RATE
        times = [
            (min(round(at * self._frame_ms), most), min(round((at + 1) * self._frame_ms), most))
            for _, at in utterance.open
        ]
        words = self._pieces.words(ids, times)
        spans = self._pieces.spans(ids)
        heard = Heard(utterance.settled + words, len(utterance.settled) + max(0, len(words) - (not last)))
        # What is settled is not read again, so that a long utterance costs no more per chunk than a short one.
        if len(spans) > 1 and spans[-2].last < spans[-1].first:
            utterance.settled = utterance.settled + words[:-1]
            utterance.open = utterance.open[spans[-1].first :]
        return heard


def load(folder: Folder) -> StreamingRecogniser:
    """front.json: "decoder" rnnt_step or transducer, "features", "encoder_frame_ms", "tail_s".

    Raises: GraphError.
    """
    # Each of them needs this module's classes.
    from gateway.triton.models.asr.step_graph import StepGraph
    from gateway.triton.models.asr.streaming_transducer import StreamingTransducer

    front = folder.front
    steppers: dict[str, Callable[[Folder], Stepper]] = {
        "rnnt_step": StepGraph,
        "transducer": StreamingTransducer,
    }
    make = steppers.get(front.get("decoder", ""))
    if make is None:
        raise GraphError(f"front.json: decoder {front.get('decoder')!r} is none of {', '.join(steppers)}")
    try:
        settings = front["features"]
        features = Fbank(settings) if settings.get("kind") == "kaldi" else LogMel(settings)
        pieces = Pieces(folder.read_json("tokens.json"))
        return StreamingRecogniser(
            make(folder),
            features,
            pieces,
            frame_ms=float(front["encoder_frame_ms"]),
            tail_s=float(front.get("tail_s", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"front.json of a streaming recogniser: {error}") from None
