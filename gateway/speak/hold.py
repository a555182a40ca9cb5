"""A session's hold on its voice: the model stays loaded, and stays the same, for as long as the session has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.speak.tts import Chunk, Synthesizer

Notify = Callable[[str, str], None]
"""Told a code and a sentence for the client: "voice_loading", "voice_ready", "voice_failed", "voice_moved"."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session asks of its voice; "" leaves it to the settings."""

    voice: str = ""
    language: str = ""
    """BCP-47."""
    model: str = ""
    policy: str = ""
    """Name of a routing policy."""


class VoiceHold(Protocol):
    """Of one session; used on the event loop."""

    async def prepare(self) -> None:
        """Take hold of the model before the first sentence needs it. Never raises: the sentence will."""
        ...

    def change(self, wish: Wish, *, switch: bool) -> None:
        """For the sentences to come. Raises TtsError where it would take another model and `switch` is false."""
        ...

    def synthesize(self, text: str) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`."""
        ...

    def release(self) -> None:
        """Once; nothing is awaited."""
        ...


@runtime_checkable
class HoldsVoices(Protocol):
    """A synthesiser whose models come and go."""

    def hold(self, wish: Wish, notify: Notify) -> VoiceHold: ...


def hold_voice(synthesizer: Synthesizer, wish: Wish, notify: Notify) -> VoiceHold:
    """A hold on whatever the synthesiser has: where nothing can be held, each sentence asks for itself."""
    if isinstance(synthesizer, HoldsVoices):
        return synthesizer.hold(wish, notify)
    return _Unheld(synthesizer, wish)


class _Unheld:
    """A remote service decides what it has loaded."""

    def __init__(self, synthesizer: Synthesizer, wish: Wish) -> None:
        self._synthesizer, self._wish = synthesizer, wish

    async def prepare(self) -> None:
        pass

    def change(self, wish: Wish, *, switch: bool) -> None:
        self._wish = wish

    def synthesize(self, text: str) -> AsyncGenerator[Chunk, None]:
        return self._synthesizer.synthesize(text, voice=self._wish.voice, language=self._wish.language)

    def release(self) -> None:
        pass
