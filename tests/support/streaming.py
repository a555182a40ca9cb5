"""Utterances put to a streaming recogniser in one process, as its model would: together, each with its own start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.engine import Heard, Job


def transcripts(
    recogniser: Any, audios: Sequence[NDArray[np.float32]], chunk: int, starts: Sequence[int]
) -> list[list[str]]:
    """The words of each. chunk: samples; 0: at random. starts: the step at which each begins.

    Raises: AssertionError when a stable word changes, a word's times are out of order, or not all of an utterance
    is stable at its end.
    """
    rng = np.random.default_rng(5)
    opened = [recogniser.begin() for _ in audios]
    at = [0] * len(audios)
    told: list[Heard | None] = [None] * len(audios)
    ended = [False] * len(audios)
    step = 0
    while not all(ended):
        jobs, who = [], []
        for number, audio in enumerate(audios):
            if ended[number] or step < starts[number]:
                continue
            size = chunk or int(rng.integers(0, 9_000))
            jobs.append(
                Job(opened[number], audio[at[number] : at[number] + size], at[number] + size >= len(audio))
            )
            at[number] += size
            who.append(number)
        step += 1
        for number, heard, job in zip(who, recogniser.step(jobs) if jobs else [], jobs, strict=True):
            assert isinstance(heard, Heard), heard
            before = told[number]
            if before is not None:
                assert heard.words[: before.stable] == before.words[: before.stable]
            times = [time for word in heard.words for time in word[1:]]
            assert times == sorted(times)
            told[number], ended[number] = heard, job.last
    found = []
    for heard in told:
        assert heard is not None
        assert heard.stable == len(heard.words)
        found.append([word.text for word in heard.words])
    return found
