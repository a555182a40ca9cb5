"""What the session asks of a recogniser. `riva_asr.py` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

RATE = 16_000
"""Hz of all audio between the ear and the recogniser."""


class AsrError(Exception):
    """The recogniser failed, refused or fell silent. `str()` is fit for the client: no secret, no traceback."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = True,
        unwell: bool | None = None,
        again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        """False: another try would fail the same way (unknown language or model)."""
        self.unwell = retryable if unwell is None else unwell
        """The service is not well; false: the request was wrong, or was not made."""
        self.again = again
        """Where there is one, it returns when another try makes sense; until then none does."""


@dataclass(frozen=True, slots=True)
class HeardWord:
    text: str
    """As recognised."""
    start_ms: int
    """From the first audio of this recognition."""
    end_ms: int
    """From the first audio of this recognition."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    text: str
    """Everything recognised since the first audio; partials replace each other."""
    final: bool
    """True: `text` will not change."""
    stable: int = 0
    """Leading characters that will not change."""
    words: tuple[HeardWord, ...] = ()
    """With times, where the recogniser gives them."""


class Recognizer(Protocol):
    """One per process; shared by all sessions."""

    def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncIterator[Hypothesis]:
        """One try at one utterance.

        audio: PCM16 at 16 kHz, any chunk length; its end is the end of the utterance.
        Yields partials, then exactly one final after the end of audio. Closing the iterator early
        releases everything upstream at once.
        Raises: AsrError.
        """
        ...

    async def check(self) -> None:
        """Raises AsrError when the service cannot be reached or is not ready (readiness)."""
        ...

    async def close(self) -> None: ...
