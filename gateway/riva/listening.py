"""A stream of audio in, results out: chunks, utterances and their ends. No wire, no protobuf."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np

from gateway.audio.pcm import Int16
from gateway.audio.resample import Resampler
from gateway.riva.endpointing import Detector, Endpointer, Endpointing, Turn
from gateway.riva.utterance import CHUNK, RATE, Audio, Heard, Utterance

_PRE_ROLL_MS = 480
_PATIENCE_S = 10.0
"""The detector found no speech for this long from the start of the stream: from then on it decides
whether the model listens. Until then everything is recognised, lest a faint voice be lost."""
_ECHO_S = 1.0
"""A transcript that does not change is repeated this often, so that a client sees the service live."""
MAX_UTTERANCE_S = 120.0
"""Longer ones are ended: what a recogniser keeps of an utterance grows with it."""


@dataclass(frozen=True, slots=True)
class Result:
    heard: Heard
    final: bool
    processed_s: float
    """Audio of the stream recognised so far."""
    ending: bool = False
    """First pass of the end of the utterance: the text will most likely be the final one."""


class Listening:
    """One client's stream. Every method works the audio off before it returns: nothing is queued here."""

    def __init__(
        self,
        open_utterance: Callable[[int], Utterance],
        *,
        endpointing: Endpointing | None,
        detector: Detector | None,
    ) -> None:
        """open_utterance: a new one that begins after so many samples of the stream.

        detector: needed with `endpointing`. Without both the stream is one utterance.
        """
        self._open_utterance = open_utterance
        self._endpointer = Endpointer(endpointing) if endpointing and detector else None
        self._detector = detector
        self._resampler: Resampler | None = None
        self._pending: Audio = np.zeros(0, np.float32)
        self._utterance: Utterance | None = None
        self._pre_roll: list[Audio] = []
        stop_ms = endpointing.stop_history if endpointing else 0
        self._pre_roll_chunks = min(_PRE_ROLL_MS, stop_ms) * RATE // 1000 // CHUNK
        self._processed = 0
        self._gated = False
        self._spoken = False
        self._shown: tuple[str, int, int] = ("", 0, 0)
        self._finals = 0

    async def feed(self, samples: Int16, rate: int) -> AsyncIterator[Result]:
        """int16 [n] at `rate` Hz; n is whatever arrived."""
        if self._resampler is None:
            self._resampler = Resampler(rate, RATE)
        elif self._resampler.in_rate != rate:
            self._take(self._resampler.flush())
            self._resampler = Resampler(rate, RATE)
        self._take(self._resampler.push(samples))
        while self._pending.size >= CHUNK:
            chunk, self._pending = self._pending[:CHUNK], self._pending[CHUNK:]
            async for result in self._hear(chunk):
                yield result

    async def end_utterance(self) -> AsyncIterator[Result]:
        """The client says that the utterance is over now."""
        rest, self._pending = self._pending, np.zeros(0, np.float32)
        offset = self._processed
        self._processed += rest.size
        if self._utterance is None and rest.size and self._listens():
            self._utterance = await self._begin(offset)
        if self._utterance is not None:
            yield await self._finish(self._utterance, rest)
        if self._endpointer is not None:
            self._gated = self._spoken
            self._endpointer.reset()

    async def finish(self) -> AsyncIterator[Result]:
        """The client sends no more: the rest of the audio, and the last final."""
        if self._resampler is not None:
            self._take(self._resampler.flush())
        while self._pending.size > CHUNK:
            chunk, self._pending = self._pending[:CHUNK], self._pending[CHUNK:]
            async for result in self._hear(chunk):
                yield result
        speaking = self._endpointer is None or self._endpointer.speaking
        wanted = speaking or not self._finals
        async for result in self.end_utterance():
            if wanted and (result.heard.text or self._endpointer is None):
                yield result

    def close(self) -> None:
        """Releases the model and the detector; nothing is awaited."""
        if self._utterance is not None:
            self._utterance.give_up()
            self._utterance = None
        if self._detector is not None:
            self._detector.close()

    def _take(self, samples: Int16) -> None:
        if samples.size:
            scaled = samples.astype(np.float32) * np.float32(1 / 32768)
            self._pending = np.concatenate((self._pending, scaled)) if self._pending.size else scaled

    async def _hear(self, chunk: Audio) -> AsyncIterator[Result]:
        """One whole chunk: first what the detector says, so that an end goes out with its last chunk."""
        turns = await self._turns(chunk)
        started = Turn.STARTED in turns
        self._spoken |= started
        offset = self._processed
        self._processed += chunk.size
        if self._utterance is None:
            if not (started or self._listens()):
                self._remember(chunk)
                return
            self._utterance = await self._begin(offset)
        utterance = self._utterance
        too_long = utterance.samples + chunk.size >= MAX_UTTERANCE_S * RATE
        unheard = self._endpointer is not None and not self._spoken and self._processed >= _PATIENCE_S * RATE
        if Turn.ENDED in turns or too_long or unheard:
            result = await self._finish(utterance, chunk)
            self._gated = self._endpointer is not None
            self._remember(chunk)
            if result.heard.text:
                yield result
            return
        heard = await utterance.feed(chunk)
        if self._worth_showing(heard) or Turn.ENDING in turns:
            yield Result(heard, False, self._processed / RATE, Turn.ENDING in turns)

    def _listens(self) -> bool:
        """Whether audio outside an utterance begins one."""
        return not self._gated or (self._endpointer is not None and self._endpointer.speaking)

    async def _begin(self, offset: int) -> Utterance:
        before, self._pre_roll = self._pre_roll, []
        utterance = self._open_utterance(offset - sum(chunk.size for chunk in before))
        self._utterance = utterance  # so that `close` finds it, whatever happens
        for chunk in before:
            await utterance.feed(chunk)
        return utterance

    async def _finish(self, utterance: Utterance, last: Audio) -> Result:
        heard = await utterance.feed(last, end=True)
        self._utterance = None
        self._pre_roll.clear()
        self._shown = ("", 0, self._processed)
        self._finals += bool(heard.text)
        return Result(heard, True, self._processed / RATE)

    async def _turns(self, chunk: Audio) -> list[Turn]:
        if self._endpointer is None or self._detector is None:
            return []
        probabilities = await self._detector.probabilities(chunk)
        return [turn for p in probabilities if (turn := self._endpointer.push(p)) is not None]

    def _worth_showing(self, heard: Heard) -> bool:
        text, stable, shown_at = self._shown
        if (heard.text, heard.stable) == (text, stable) and self._processed - shown_at < _ECHO_S * RATE:
            return False
        self._shown = (heard.text, heard.stable, self._processed)
        return True

    def _remember(self, chunk: Audio) -> None:
        self._pre_roll.append(chunk)
        del self._pre_roll[: max(0, len(self._pre_roll) - self._pre_roll_chunks)]
