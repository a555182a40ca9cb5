"""What a recogniser is to the batches of utterances that share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""float32 [n], 16 kHz, all within full scale, which is 1 (recognition.py sees to it)."""
U = TypeVar("U")
START, END = 1, 2
"""Flags of a request that belongs to a sequence, as Triton sets them."""


class EngineError(Exception):
    """No worker, or a worker failed. `str()` is fit for the client."""


class Word(NamedTuple):
    text: str
    start_ms: int
    """From START."""
    end_ms: int


class Heard(NamedTuple):
    words: list[Word]
    """Of the whole utterance so far."""
    stable: int
    """Leading words that will not change."""


@dataclass(slots=True)
class Job(Generic[U]):
    """One chunk of one utterance."""

    utterance: U
    audio: Samples
    """Any length, also none."""
    last: bool
    """The utterance ends with it."""


class Recogniser(Protocol[U]):
    """All of it runs in one thread."""

    max_batch: int
    """Utterances of one `step`."""
    at_once: int
    """Samples that a job should have at most, so that it holds up nobody in its batch; 0: any number costs the same."""

    def begin(self, language: str = "") -> U:
        """A new utterance; cheap. language: BCP-47, "" where the client said none."""
        ...

    def step(self, jobs: Sequence[Job[U]]) -> list[Heard | Exception]:
        """What is heard in each utterance now. Blocks; no utterance is there twice. An exception in the
        list ends that utterance alone; one that is raised ends them all."""
        ...


AnyRecogniser = Recogniser[Any]
