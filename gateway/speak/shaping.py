"""From what a voice model makes to what a client hears: levelled, at the client's rate.

Whole chunks of a model (40 to 160 ms) are worked on at the model's own rate: the same work on every
20 ms frame at 48 kHz cost five times as much.
"""

from __future__ import annotations

from gateway.audio.loudness import Leveler
from gateway.audio.pcm import to_int16
from gateway.audio.resample import Resampler, borrow, give_back
from gateway.speak.tts import Chunk


class Shaper:
    """One per reply, whose sentences follow each other without a seam. `close` it."""

    def __init__(self, output_rate: int, loudness_dbfs: float) -> None:
        self._output_rate, self._loudness_dbfs = output_rate, loudness_dbfs
        self._leveler: Leveler | None = None
        self._resampler: Resampler | None = None

    def push(self, chunk: Chunk) -> bytes:
        """PCM16 at the output rate that the chunk completes; the resampler is 1 ms late."""
        before = b""
        if self._resampler is None or self._resampler.in_rate != chunk.rate:
            before = self.finish()
            self.close()
            self._resampler = borrow(chunk.rate, self._output_rate)
            self._leveler = Leveler(chunk.rate, self._loudness_dbfs)
        assert self._leveler is not None
        levelled = self._leveler.unrounded(to_int16(chunk.pcm))
        return before + self._resampler.push(levelled).tobytes()

    def finish(self) -> bytes:
        """What the resampler still holds, and up to 3 ms of silence."""
        return self._resampler.drain().tobytes() if self._resampler is not None else b""

    def close(self) -> None:
        """No more is pushed."""
        if self._resampler is not None:
            give_back(self._resampler)
            self._resampler = None
