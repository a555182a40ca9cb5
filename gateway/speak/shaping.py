"""From what a voice model makes to what a client hears: levelled, at the client's rate.

Whole chunks of a model (40 to 160 ms) are worked on at the model's own rate: the same work on every
20 ms frame at 48 kHz cost five times as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.audio.loudness import Leveler
from gateway.audio.pcm import to_int16
from gateway.audio.resample import Resampler, borrow, give_back
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
    """One per reply, whose sentences follow each other without a seam. `close` it."""

    def __init__(self, output_rate: int, loudness_dbfs: float, *, reference: bool) -> None:
        self._output_rate, self._loudness_dbfs, self._wanted = output_rate, loudness_dbfs, reference
        self._leveler: Leveler | None = None
        self._rate = 0
        self._out: Resampler | None = None
        self._reference: Resampler | None = None

    def push(self, chunk: Chunk) -> Shaped:
        """What the chunk completes; the resamplers are 1 ms late."""
        before = Shaped(b"", b"")
        if chunk.rate != self._rate:
            before = self.finish()
            self._begin(chunk.rate)
        assert self._leveler is not None
        assert self._out is not None
        levelled = self._leveler.process(to_int16(chunk.pcm))
        pcm = self._out.push(levelled).tobytes()
        if self._reference is not None:
            reference = self._reference.push(levelled).tobytes()
        else:
            reference = pcm if self._wanted else b""
        return Shaped(before.pcm + pcm, before.reference + reference)

    def finish(self) -> Shaped:
        """What the resamplers still hold, and up to 3 ms of silence."""
        if self._out is None:
            return Shaped(b"", b"")
        pcm = self._out.drain().tobytes()
        if self._reference is not None:
            return Shaped(pcm, self._reference.drain().tobytes())
        return Shaped(pcm, pcm if self._wanted else b"")

    def close(self) -> None:
        """No more is pushed."""
        for resampler in (self._out, self._reference):
            if resampler is not None:
                give_back(resampler)
        self._out = self._reference = None
        self._rate = 0

    def _begin(self, rate: int) -> None:
        self.close()
        self._leveler, self._rate = Leveler(rate, self._loudness_dbfs), rate
        self._out = borrow(rate, self._output_rate)
        if self._wanted and self._output_rate != REFERENCE_RATE:
            self._reference = borrow(rate, REFERENCE_RATE)
