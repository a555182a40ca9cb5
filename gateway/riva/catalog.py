"""Which speech models Triton has ready, and which of them a request means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc

from gateway.riva.errors import Refused
from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.model_info import ModelInfo
from gateway.triton.repository import ModelState

ASR, TTS = "asr", "tts"
_NONE_READY = {
    ASR: "no speech recogniser is ready in Triton: load one (parley models load asr_...)",
    TTS: "no voice is ready in Triton: load one (parley models load tts_...)",
}
Found = TypeVar("Found")
_MISS_S = 0.5
"""A request for something unknown asks Triton again, but not more often than this."""


class ModelSource(Protocol):
    """The part of `gateway.triton.repository.Repository` that is needed here."""

    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]: ...
    async def describe(self, name: str, *, deadline_s: float = 5.0) -> ModelInfo: ...


@dataclass(frozen=True, slots=True)
class Voice:
    model: ModelInfo
    name: str
    """As the model knows it; "" is the model's default."""
    language: str
    """BCP-47, as asked for; "" leaves it to the model."""


class Catalog:
    """What Triton had at the last look. `refresh()` looks; a request that finds nothing looks again."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._models: dict[str, ModelInfo] = {}
        self._looking = asyncio.Lock()
        self._looks = 0
        self._failure: TritonError | None = None
        self._looked_at = float("-inf")

    def ready(self, family: str) -> list[ModelInfo]:
        """The models of a family, the preferred first: by `default`, need of a GPU, and name."""
        found = (model for model in self._models.values() if family_of(model) == family)
        return sorted(found, key=lambda model: (not model.default, not model.needs_gpu, model.name))

    async def refresh(self, *, max_age_s: float = 0.0) -> None:
        """Look at Triton, unless the last look is younger. Waiters share one look.

        Raises: TritonError when Triton does not answer; then nothing counts as ready.
        """
        loop = asyncio.get_running_loop()
        before = self._looks
        async with self._looking:
            if self._looks == before and loop.time() - self._looked_at >= max_age_s:
                self._looks += 1
                self._failure = await self._look()
                self._looked_at = float("-inf") if self._failure else loop.time()
            if self._failure is not None:
                raise self._failure

    async def _look(self) -> TritonError | None:
        """Why it did not work, if so."""
        try:
            names = sorted({state.name for state in await self._source.index(ready=True)})
            models = await asyncio.gather(*(self._describe(name) for name in names))
        except TritonError as error:
            self._models = {}
            return error
        self._models = {model.name: model for model in models if model is not None}
        return None

    def forget(self, name: str) -> None:
        """The model is not there any more: look again before it is offered."""
        self._models.pop(name, None)
        self._looked_at = float("-inf")

    async def recogniser(self, model: str, language: str, kind: str) -> ModelInfo:
        """kind: "online" or "offline", for the text. Raises: Refused, TritonError."""

        def find() -> ModelInfo | None:
            for known in self.ready(ASR):
                if (not model or known.name == model) and speaks(known, language):
                    return known
            return None

        found = find() or await self._look_again(ASR, find)
        if found is None:
            raise Refused(f"Error: Unavailable model requested. Lang: {language}, Type: {kind}")
        return found

    async def voice(self, voice: str, language: str) -> Voice:
        """The voice a synthesis request means. Raises: Refused, TritonError."""

        def find() -> Voice | None:
            for known in self.ready(TTS):
                name = _voice_of(known, voice, language)
                if name is not None:
                    return Voice(known, name, language)
            return None

        found = find() or await self._look_again(TTS, find)
        if found is None:
            raise Refused(
                f"Model is not available on server: Voice {voice} for language {language} not found. "
                "Please specify the voice name in your SynthesizeSpeechRequest."
            )
        return found

    async def _look_again(self, family: str, find: Callable[[], Found | None]) -> Found | None:
        await self.refresh(max_age_s=_MISS_S)
        found = find()
        if found is None and not self.ready(family):
            raise Refused(f"Error: {_NONE_READY[family]}", grpc.StatusCode.UNAVAILABLE)
        return found

    async def _describe(self, name: str) -> ModelInfo | None:
        try:
            return await self._source.describe(name)
        except TritonUnavailable:
            return None  # unloaded meanwhile


def family_of(model: ModelInfo) -> str:
    """asr, tts, … by its config, else by its name."""
    return model.family or model.name.partition("_")[0]


def voice_base(model: ModelInfo) -> str:
    """What comes before the dot in a full voice name."""
    return model.name.removeprefix("tts_")


def speaks(model: ModelInfo, language: str) -> bool:
    """Whether a model serves a BCP-47 tag; "" is served by all, "en" by every kind of English."""
    return not language or not model.languages or any(_fits(known, language) for known in model.languages)


def voices_of(model: ModelInfo, language: str) -> list[str]:
    """The model's voices for a language, its default first; "" for all of them."""
    if not language or len(model.voice_languages) != len(model.voices):
        return list(model.voices)
    pairs = zip(model.voices, model.voice_languages, strict=True)
    return [voice for voice, known in pairs if _fits(known, language)]


def _fits(known: str, wanted: str) -> bool:
    known, wanted = (tag.replace("_", "-").lower() for tag in (known, wanted))
    return known == wanted or known == wanted.partition("-")[0] or known.partition("-")[0] == wanted


def _voice_of(model: ModelInfo, voice: str, language: str) -> str | None:
    """The model's own name for `voice`, "" for its default, None when it has no such voice.

    Voices are named as Riva does, "flite.slt", or without what comes before the dot.
    """
    if not speaks(model, language):
        return None
    if not voice or voice in (model.name, voice_base(model)):
        return ""
    for base in (model.name, voice_base(model)):
        voice = voice.removeprefix(f"{base}.")
    return voice if voice in voices_of(model, language) else None
