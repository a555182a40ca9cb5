"""What the session asks of a synthesiser. `triton_tts.py` and `riva_tts.py` are the real ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


class TtsError(Exception):
    """Synthesis failed, was refused or fell silent. `str()` is fit for the client."""

    def __init__(self, message: str, *, unwell: bool = True) -> None:
        super().__init__(message)
        self.unwell = unwell
        """The service is not well; false: the request was wrong (voice, language, key), or was not made."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one sentence's audio."""

    pcm: bytes
    """PCM16, little-endian, mono."""
    rate: int
    """Hz; the same for every chunk of a sentence."""


class Synthesizer(Protocol):
    """One per process; shared by all sessions."""

    def synthesize(self, text: str, *, voice: str = "", language: str = "") -> AsyncGenerator[Chunk, None]:
        """One sentence, audio as it is made.

        `aclose()` (and cancellation) stops the model's work: the cancel goes in-band, and a
        background task drains the stream, so `aclose()` returns at once.
        Raises: TtsError; an empty audio for non-empty text is one too.
        """
        ...

    async def check(self) -> None:
        """Raises TtsError when the service cannot be reached or has no usable model (readiness)."""
        ...

    async def close(self) -> None:
        """Waits for background drains, then closes channels."""
        ...
