"""From what a voice model makes to what a client hears: levelled, at the client's rate.

Whole chunks of a model (40 to 160 ms) are worked on at the model's own rate: the same work on every
20 ms frame at 48 kHz cost five times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.audio.loudness import Leveler
from gateway.audio.pcm import to_int16
from gateway.audio.resample import Resampler
from gateway.speak.tts import Chunk

REFERENCE_RATE = 16_000
"""Hz of the copy that the echo guard compares the microphone with."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A stretch of a reply's audio."""

    pcm: bytes
    """PCM16 at the client's rate."""
    reference: bytes
    """The same at `REFERENCE_RATE`; empty where nobody needs it."""


class Shaper:
    """One per reply; `finish` ends a sentence, whose chunks all have one rate."""

    def __init__(self, output_rate: int, loudness_dbfs: float, *, reference: bool) -> None:
        self._output_rate, self._loudness_dbfs, self._wanted = output_rate, loudness_dbfs, reference
        self._leveler: Leveler | None = None
        self._rate = 0
        self._out: Resampler | None = None
        self._reference: Resampler | None = None

    def push(self, chunk: Chunk) -> Shaped:
        """What the chunk completes; the resamplers are 1 ms late."""
        if self._out is None:
            if self._leveler is None or chunk.rate != self._rate:
                self._leveler, self._rate = Leveler(chunk.rate, self._loudness_dbfs), chunk.rate
            self._out = Resampler(chunk.rate, self._output_rate)
            if self._wanted and self._output_rate != REFERENCE_RATE:
                self._reference = Resampler(chunk.rate, REFERENCE_RATE)
        assert self._leveler is not None
        levelled = self._leveler.process(to_int16(chunk.pcm))
        pcm = self._out.push(levelled).tobytes()
        if self._reference is not None:
            return Shaped(pcm, self._reference.push(levelled).tobytes())
        return Shaped(pcm, pcm if self._wanted else b"")

    def finish(self) -> Shaped:
        """What the resamplers still hold of the sentence."""
        if self._out is None:
            return Shaped(b"", b"")
        pcm = self._out.flush().tobytes()
        reference = pcm if self._wanted else b""
        if self._reference is not None:
            reference = self._reference.flush().tobytes()
        self._out = self._reference = None
        return Shaped(pcm, reference)
