"""One reply's audio between the voice model and the clock: chunks as they came, frames as they go.

A voice model is faster than real time, and many replies are cut short. So chunks wait as they came and
are levelled, resampled and cut into frames when those are about to be sent, some hundred milliseconds
at a time: that costs a third of doing it chunk by chunk, holds half the memory, and what nobody will
hear is never worked on.
"""

from __future__ import annotations

import math
from collections import deque

from gateway.audio.pcm import frame_bytes
from gateway.audio.resample import MAX_RATE, MIN_RATE
from gateway.speak.shaping import Shaper
from gateway.speak.tts import Chunk

FRAME_MS = 20
_AT_ONCE_MS = 320


class Reel:
    """Frames have numbers from 0; those before `base` are gone."""

    def __init__(self, rate: int, loudness_dbfs: float) -> None:
        self._frame_bytes = frame_bytes(rate)
        self._shaper = Shaper(rate, loudness_dbfs)
        self._chunks: deque[Chunk] = deque()
        self._given_ms = 0.0
        self._frames: deque[bytes] = deque()
        """Each by itself: the echo guard keeps them too, and so they are in memory once."""
        self._partial = b""
        self.base = 0
        self.end = 0
        """Number of frames made so far, those before `base` included."""
        self.finished = False
        """No more chunks will come."""

    def add(self, chunk: Chunk) -> None:
        """Raises ValueError for half a sample, or a rate that is not served."""
        if len(chunk.pcm) % 2:
            raise ValueError(f"PCM16 audio has whole samples of 2 bytes; got {len(chunk.pcm)} bytes")
        if not MIN_RATE <= chunk.rate <= MAX_RATE:
            raise ValueError(f"sample rate {chunk.rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE} Hz")
        if chunk.pcm:
            self._chunks.append(chunk)
            self._given_ms += _ms(chunk)

    @property
    def total_ms(self) -> int:
        """Of all chunks, in whole frames; the last, padded one counts once it is made."""
        return max(self.end, int(round(self._given_ms, 3) / FRAME_MS)) * FRAME_MS

    def has(self, number: int) -> bool:
        """Whether frame `number` (at most `end`) can be had now; makes it if it can."""
        while number >= self.end:
            if self._chunks:
                self._make_some()
            elif self.finished and self.end < (whole := math.ceil(round(self._given_ms, 3) / FRAME_MS)):
                size = (whole - self.end) * self._frame_bytes
                self._keep((self._partial + self._shaper.finish())[:size].ljust(size, b"\0"))
            else:
                return False
        return True

    def frame(self, number: int) -> bytes:
        """PCM16, 20 ms. Ask `has` first."""
        return self._frames[number - self.base]

    def forget(self, before: int) -> None:
        """Frames before this are not asked for any more."""
        while self.base < before:
            self._frames.popleft()
            self.base += 1

    def close(self) -> None:
        """Nobody asks any more."""
        self._chunks.clear()
        self._shaper.close()

    def _make_some(self) -> None:
        chunks = self._chunks
        chunk = chunks.popleft()
        rate, pieces, taken_ms = chunk.rate, [chunk.pcm], _ms(chunk)
        while chunks and taken_ms < _AT_ONCE_MS and chunks[0].rate == rate:
            chunk = chunks.popleft()
            pieces.append(chunk.pcm)
            taken_ms += _ms(chunk)
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._keep(self._partial + self._shaper.push(Chunk(whole, rate)))

    def _keep(self, pcm: bytes) -> None:
        size = self._frame_bytes
        whole = len(pcm) // size * size
        self._frames.extend([pcm[at : at + size] for at in range(0, whole, size)])
        self._partial = pcm[whole:]
        self.end = self.base + len(self._frames)


def _ms(chunk: Chunk) -> float:
    return len(chunk.pcm) * 500 / chunk.rate
