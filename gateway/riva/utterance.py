"""One utterance on one model, kept until it is over so that a lost sequence can be started again."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gateway.triton.errors import SequenceLost, TritonError, TritonTimeout, TritonUnavailable

RATE = 16_000
"""Hz of what models hear."""
CHUNK = 2_560
"""Samples the model gets at a time: 160 ms."""
_KEPT_S = 20.0

Audio = npt.NDArray[np.float32]


class Call(Protocol):
    """The part of `gateway.triton.infer.SequenceCall` that is needed here."""

    async def infer(
        self,
        audio: Audio,
        *,
        start: bool = False,
        end: bool = False,
        language: str = "",
        hints: Sequence[str] = (),
        deadline_s: float,
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]: ...
    def give_up(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start_ms: int
    """From the start of the stream."""
    end_ms: int
    """From the start of the stream."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model makes of the utterance so far."""

    text: str = ""
    stable: int = 0
    """Leading characters that will not change."""
    words: tuple[Word, ...] = ()
    confidence: float = 0.0
    """0…1; 0 where the model gives none."""


class Utterance:
    """Feed it chunks, one after the other; it takes care of START, END and a sequence that gets lost."""

    def __init__(
        self,
        open_call: Callable[[], Awaitable[Call]],
        recover: Callable[[TritonError], Awaitable[None]],
        *,
        offset: int,
        language: str,
        hints: Sequence[str],
        deadline_s: float,
    ) -> None:
        """open_call: a fresh sequence. recover: told why the last one failed, before another is opened.

        offset: samples of the stream before this utterance. deadline_s: of each chunk.
        """
        self._open_call, self._recover = open_call, recover
        self._language, self._hints, self._deadline_s = language, hints, deadline_s
        self._offset = offset
        self._call: Call | None = None
        self._kept: deque[Audio] = deque()
        self._kept_samples = 0
        self._dropped = 0
        self._before: tuple[Word, ...] = ()
        self._retried = False
        self.samples = 0
        """Heard so far."""
        self.heard = Heard()
        """The last answer."""

    async def feed(self, audio: Audio, *, end: bool = False) -> Heard:
        """audio: float32 [n], n ≤ 2,560, may be empty at the end.

        A sequence that was lost is begun again once, with the audio that is kept.
        Raises: TritonUnavailable, TritonTimeout, TritonError.
        """
        self._keep(audio)
        self.samples += audio.size
        try:
            answer = await self._infer(audio, end=end)
            self._retried = False
        except (SequenceLost, TritonUnavailable) as error:
            if isinstance(error, TritonTimeout) or self._retried:
                raise
            self._retried = True
            if isinstance(error, TritonUnavailable):
                self.give_up()
                await self._recover(error)
            answer = await self._replay(end=end)
        self.heard = self._read(answer)
        return self.heard

    def give_up(self) -> None:
        """Ends the sequence on the model, in the background; harmless when it has ended."""
        if self._call is not None:
            self._call.give_up()
            self._call = None

    async def _infer(self, audio: Audio, *, end: bool) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        start = self._call is None
        call = self._call = self._call or await self._open_call()
        return await call.infer(
            audio,
            start=start,
            end=end,
            language=self._language,
            hints=self._hints,
            deadline_s=self._deadline_s,
        )

    async def _replay(self, *, end: bool) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """The kept audio into a new sequence; the words of what is no longer kept stay as they were."""
        self.give_up()
        dropped_ms = (self._offset + self._dropped) * 1000 // RATE
        self._before = tuple(word for word in self.heard.words if word.end_ms <= dropped_ms)
        self._offset += self._dropped
        self._dropped = 0
        chunks = list(self._kept)
        for chunk in chunks[:-1]:
            await self._infer(chunk, end=False)
        return await self._infer(chunks[-1], end=end)

    def _keep(self, audio: Audio) -> None:
        self._kept.append(audio)
        self._kept_samples += audio.size
        while self._kept_samples > _KEPT_S * RATE:
            oldest = self._kept.popleft()
            self._kept_samples -= oldest.size
            self._dropped += oldest.size

    def _read(self, answer: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> Heard:
        try:
            text = str(answer["TRANSCRIPT"].reshape(-1)[0]).strip()
            stable = int(answer["STABLE"].reshape(-1)[0]) if "STABLE" in answer else 0
            words = self._words(answer)
            confidence = float(answer["CONFIDENCE"].reshape(-1)[0]) if "CONFIDENCE" in answer else 0.0
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise TritonError("the recogniser's answer does not keep the contract of asr_* models") from error
        if self._before:
            lead = " ".join(word.text for word in self._before)
            text = f"{lead} {text}".strip()
            stable += len(lead) + 1
        return Heard(text, max(0, min(stable, len(text))), self._before + words, confidence)

    def _words(self, answer: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> tuple[Word, ...]:
        if "WORDS" not in answer or "WORD_TIMES" not in answer:
            return ()
        base = self._offset * 1000 // RATE
        times = answer["WORD_TIMES"].reshape(-1, 2)
        texts = answer["WORDS"].reshape(-1)
        return tuple(
            Word(str(text), base + int(start), base + int(end))
            for text, (start, end) in zip(texts, times, strict=False)
        )
