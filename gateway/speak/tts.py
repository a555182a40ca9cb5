"""What the session asks of a synthesiser. `triton_tts.py` and `riva_tts.py` are the real ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


class TtsError(Exception):
    """Synthesis failed, was refused or fell silent. `str()` is fit for the client."""

    def __init__(self, message: str, *, unwell: bool = True, later: bool = False) -> None:
        super().__init__(message)
        self.unwell = unwell
        """The service is not well; false: the request was wrong (voice, language, key), or was not made."""
        self.later = later
        """The request was not made and nothing is wrong with it: it may be made again."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one sentence's audio."""

    pcm: bytes
    """PCM16, little-endian, mono."""
    rate: int
    """Hz; the same for every chunk of a sentence."""


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """A model that speaks, as a client may ask for it."""

    name: str
    languages: tuple[str, ...]
    """BCP-47."""
    voices: tuple[str, ...]
    """As `synthesize` takes them; the first is the default."""
    voice_languages: tuple[str, ...] = ()
    """Of each voice, in the same order; empty: every voice speaks every language."""
    speeds: tuple[float, float] = (1.0, 1.0)
    """Slowest and fastest that it can itself, of its usual speed."""


class Synthesizer(Protocol):
    """One per process; shared by all sessions."""

    def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """One sentence, audio as it is made.

        speed: within the model's `VoiceModel.speeds`. model: a name out of `models()`.
        `aclose()` (and cancellation) stops the model's work: the cancel goes in-band, and a
        background task drains the stream, so `aclose()` returns at once.
        Raises: TtsError; an empty audio for non-empty text is one too.
        """
        ...

    async def models(self) -> list[VoiceModel]:
        """What there is to choose from. Raises TtsError when the service cannot be reached."""
        ...

    async def check(self) -> None:
        """Raises TtsError when the service cannot be reached or has no usable model (readiness)."""
        ...

    async def close(self) -> None:
        """Waits for background drains, then closes channels."""
        ...
