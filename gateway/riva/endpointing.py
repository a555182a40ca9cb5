"""Where utterances begin and end in a stream, by Riva's endpointing parameters over speech probabilities."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from gateway.listen.vad import WINDOW, Vad

WINDOW_MS = WINDOW * 1000 // 16_000
_SPEECH = 0.5
_MOST_ANSWERS = 256
_ANSWER_S = 5.0
"""Longest wait for the detector."""


@dataclass(frozen=True, slots=True)
class Endpointing:
    """Windows of audio (ms), and the share of each that must be speech, or silence. Riva's own defaults."""

    start_history: int = 200
    """Window in which the start of an utterance is looked for."""
    start_threshold: float = 0.2
    """Share of it that must be speech."""
    stop_history: int = 800
    """Window in which the end is looked for."""
    stop_threshold: float = 0.98
    """Share of it that must be silence."""
    stop_history_eou: int = 0
    """Window of the first pass, which only announces the end; 0: no first pass."""
    stop_threshold_eou: float = 0.98
    """Share of it that must be silence."""


class Turn(Enum):
    STARTED = auto()
    """Speech has begun."""
    ENDING = auto()
    """First pass: the utterance has probably ended."""
    ENDED = auto()
    """The utterance has ended; the next window belongs to the next one."""


class Endpointer:
    """Fed one speech probability per 32 ms."""

    def __init__(self, settings: Endpointing) -> None:
        self._settings = settings
        longest = max(settings.start_history, settings.stop_history, settings.stop_history_eou)
        self._windows: deque[bool] = deque(maxlen=_count(longest))
        self.speaking = False
        """Between STARTED and ENDED."""
        self._announced = False

    def push(self, probability: float) -> Turn | None:
        """What this window decides."""
        speech = probability >= _SPEECH
        self._windows.append(speech)
        settings = self._settings
        if not self.speaking:
            if speech and self._share(settings.start_history, True) >= settings.start_threshold:
                self.speaking = True
                return Turn.STARTED
            return None
        if speech:
            self._announced = False
            return None
        if self._full(settings.stop_history, settings.stop_threshold):
            self.reset()
            return Turn.ENDED
        if (
            settings.stop_history_eou
            and not self._announced
            and self._full(settings.stop_history_eou, settings.stop_threshold_eou)
        ):
            self._announced = True
            return Turn.ENDING
        return None

    def reset(self) -> None:
        """The utterance is over, whoever ended it."""
        self.speaking = self._announced = False
        self._windows.clear()

    def _full(self, history_ms: int, threshold: float) -> bool:
        return len(self._windows) >= _count(history_ms) and self._share(history_ms, False) >= threshold

    def _share(self, history_ms: int, speech: bool) -> float:
        """Of the last `history_ms`, counting what was before the stream as silence."""
        count = _count(history_ms)
        recent = list(self._windows)[-count:]
        hits = sum(recent) if speech else len(recent) - sum(recent)
        return hits / count


def _count(history_ms: int) -> int:
    return max(1, math.ceil(history_ms / WINDOW_MS))


class Detector:
    """One stream's speech probabilities from the shared detector."""

    def __init__(self, vad: Vad) -> None:
        self._answers: asyncio.Queue[float] = asyncio.Queue(_MOST_ANSWERS)
        self._stream = vad.open(self._answers.put_nowait)

    async def probabilities(self, samples: npt.NDArray[np.float32]) -> list[float]:
        """One for every whole window of float32 [n]. Raises TimeoutError when the detector is stuck."""
        windows = samples.size // WINDOW
        for i in range(windows):
            self._stream.push(samples[i * WINDOW : (i + 1) * WINDOW])
        async with asyncio.timeout(_ANSWER_S):
            return [await self._answers.get() for _ in range(windows)]

    def close(self) -> None:
        self._stream.close()
