"""Which model and voice a name means."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from gateway.listen.asr import AsrError
from gateway.listen.transcriber import AsrModel, Transcriber
from gateway.openai_audio.errors import ApiError, bad, no_such_model, of_recognition, of_speech
from gateway.settings_openai import OpenAiAudioSettings
from gateway.speak.tts import Synthesizer, TtsError, VoiceModel

log = logging.getLogger(__name__)

DEFAULT = "default"
OPENAI_VOICES = frozenset(
    [
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    ]
)
"""Programs name one of these because they must name some voice: they get the default."""


@dataclass(frozen=True, slots=True)
class ChosenVoice:
    """As `Synthesizer.synthesize` takes it; "" leaves it to the settings."""

    model: str
    voice: str
    language: str
    speeds: tuple[float, float]
    """What the model can do itself."""


class Names:
    """Of one gateway."""

    def __init__(
        self, settings: OpenAiAudioSettings, synthesizer: Synthesizer, transcriber: Transcriber, created: int
    ) -> None:
        """created: what the models' age is counted from, s since 1970."""
        self._settings, self._created = settings, created
        self._synthesizer, self._transcriber = synthesizer, transcriber

    async def voice(self, model: str, voice: str, language: str) -> ChosenVoice:
        """language: BCP-47; "" takes the voice's. Raises ApiError."""
        own = model in self._settings.speech_models
        try:
            models = await self._synthesizer.models()
        except TtsError as error:
            raise of_speech(error) from error
        if not own:
            models = [known for known in models if known.name == model]
            if not models:
                raise await self._not_for_speech(model)
        wanted = self._settings.voices.get(voice, voice)
        there = {name for known in models for name in known.voices}
        if wanted == DEFAULT or (wanted in OPENAI_VOICES and wanted not in there):
            wanted = ""
        elif wanted not in there:
            raise bad(f"There is no voice '{voice}': use {self._voices(models)}.", "voice")
        if wanted:
            models = [known for known in models if wanted in known.voices]
            language = language or _language_of(models[0], wanted)
        slowest = max((known.speeds[0] for known in models), default=1.0)
        fastest = min((known.speeds[1] for known in models), default=1.0)
        return ChosenVoice("" if own else model, wanted, language, (slowest, fastest))

    async def recogniser(self, model: str) -> AsrModel | None:
        """None: the configured one. Raises ApiError."""
        if model in self._settings.transcription_models:
            return None
        try:
            found = next((known for known in await self._transcriber.models() if known.name == model), None)
        except AsrError as error:
            raise of_recognition(error) from error
        if found is not None:
            return found
        if await self._speaks(model):
            usual = " or ".join(self._settings.transcription_models[:1])
            raise bad(f"The model `{model}` speaks, it does not transcribe: use {usual}.", "model")
        raise no_such_model(model)

    async def listing(self) -> list[dict[str, Any]]:
        """Every model, as /v1/models shows it; what cannot be reached is left out."""
        voices, recognisers = await asyncio.gather(self._voice_models(), self._recognisers())
        names = [self._model(name, family="tts", voices=[DEFAULT]) for name in self._settings.speech_models]
        names += [self._model(name, family="asr") for name in self._settings.transcription_models]
        names += [
            self._model(known.name, family="tts", voices=known.voices, languages=known.languages)
            for known in voices
        ]
        names += [self._model(known.name, family="asr", languages=known.languages) for known in recognisers]
        return list({name["id"]: name for name in reversed(names)}.values())[::-1]

    async def model(self, name: str) -> dict[str, Any]:
        """Raises ApiError, 404."""
        for found in await self.listing():
            if found["id"] == name:
                return found
        raise no_such_model(name)

    def _model(self, name: str, **more: Any) -> dict[str, Any]:
        shown = {key: list(value) if isinstance(value, tuple) else value for key, value in more.items()}
        return {
            "id": name, "object": "model", "created": self._created, "owned_by": "parley", **shown
        }  # fmt: skip

    async def _voice_models(self) -> list[VoiceModel]:
        try:
            return await self._synthesizer.models()
        except TtsError as error:
            log.warning("the list of models lacks the voices: %s", error)
            return []

    async def _recognisers(self) -> list[AsrModel]:
        try:
            return await self._transcriber.models()
        except AsrError as error:
            log.warning("the list of models lacks the recognisers: %s", error)
            return []

    async def _speaks(self, model: str) -> bool:
        return model in self._settings.speech_models or any(
            known.name == model for known in await self._voice_models()
        )

    async def _not_for_speech(self, model: str) -> ApiError:
        listens = model in self._settings.transcription_models or any(
            known.name == model for known in await self._recognisers()
        )
        if not listens:
            return no_such_model(model)
        usual = " or ".join(self._settings.speech_models[:1])
        return bad(f"The model `{model}` transcribes, it does not speak: use {usual}.", "model")

    def _voices(self, models: list[VoiceModel]) -> str:
        names = [DEFAULT, *self._settings.voices, *(name for known in models for name in known.voices)]
        return ", ".join(dict.fromkeys(names))


def _language_of(model: VoiceModel, voice: str) -> str:
    """What the voice speaks; "" when it speaks all that its model does."""
    if len(model.voice_languages) != len(model.voices):
        return ""
    return model.voice_languages[model.voices.index(voice)]
