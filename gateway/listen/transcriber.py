"""What whoever transcribes whole recordings asks of a recogniser. `riva_file.py` is the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.listen.asr import HeardWord


@dataclass(frozen=True, slots=True)
class Passage:
    """What was recognised between two pauses; partials of it replace each other."""

    text: str
    final: bool
    stable: int = 0
    """Leading characters that will not change."""
    words: tuple[HeardWord, ...] = ()
    """Of finals; times from the beginning of the recording."""
    confidence: float = 0.0
    """0 … 1, of finals; 0: the recogniser does not say."""
    processed_s: float = 0.0
    """Recording worked off so far; 0: the recogniser does not say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a recording is to be recognised; "" leaves it to the settings."""

    language: str = ""
    """BCP-47, or its first part alone."""
    model: str = ""
    hints: Sequence[str] = field(default=())
    """Phrases to favour."""
    partials: bool = False
    pause_ms: int = 0
    """Silence that ends a passage; 0: the service's own."""


@dataclass(frozen=True, slots=True)
class AsrModel:
    name: str
    languages: tuple[str, ...]
    """BCP-47."""


class Transcriber(Protocol):
    """One per process."""

    def transcribe(self, audio: AsyncIterator[bytes], wanted: Wanted) -> AsyncGenerator[Passage, None]:
        """One recording, as fast as the service takes it.

        audio: PCM16 at 16 kHz, any chunk length; an exception of its own ends the call and is raised.
        `aclose()` releases everything upstream at once.
        Raises: AsrError; `unwell` false: the request was wrong.
        """
        ...

    async def models(self) -> list[AsrModel]:
        """What there is to choose from. Raises: AsrError."""
        ...

    async def close(self) -> None: ...
