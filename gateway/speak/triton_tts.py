"""Synthesis by a decoupled Triton model: one ModelStreamInfer call per sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc.aio
import numpy as np

from gateway.audio.pcm import to_pcm
from gateway.settings import TtsSettings
from gateway.speak.tts import Chunk, TtsError, VoiceModel
from gateway.triton.channel import GRPCInferenceServiceStub, open_stream_channel
from gateway.triton.codec import Array
from gateway.triton.codec import text as strings
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.infer import stream_decoupled
from gateway.triton.line import Line
from gateway.triton.model_info import ModelInfo, model_info
from gateway.triton.repository import Repository
from gateway.triton.stream import Drains

_FRESH_S = 30.0
"""How long a list of the server's models is believed."""
_SHUN_S = 5.0
"""How long a model that failed is the last choice."""
_CHECK_S = 2.0
_SPEEDS = (0.5, 2.0)
"""What the contract of `tts_*` models asks of SPEED."""
_FULL_SCALE = np.float32(32768)


@dataclass(frozen=True, slots=True)
class _Voice:
    model: ModelInfo
    name: str
    """Empty: the model's first."""


class _Calls:
    """What is called on a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.inference = GRPCInferenceServiceStub(channel)
        self.repository = Repository(channel)


class TritonSynthesizer:
    """One channel for all sessions of the process."""

    def __init__(self, settings: TtsSettings) -> None:
        self._settings = settings
        self._line = Line(settings.uri, lambda: open_stream_channel(settings.uri, ssl=settings.ssl), _Calls)
        self._drains = Drains(deadline_s=settings.chunk_ms / 1000)
        self._models: list[ModelInfo] = []
        self._defaults: set[str] = set()
        self._listed = float("-inf")
        self._listing = asyncio.Lock()
        self._shunned: dict[str, float] = {}

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`; empty `voice` and `language` mean those of the settings.

        A model that cannot be reached before its first audio is looked for again, once.
        """
        if not any(character.isalnum() for character in text):
            return
        for last_try in (False, True):
            spoken = False
            chosen = await self._choose(voice, language or self._settings.language, model)
            try:
                async with aclosing(self._speak(chosen, text, language, speed)) as chunks:
                    async for chunk in chunks:
                        spoken = True
                        yield chunk
                return
            except TritonUnavailable as error:
                self._forget(chosen.model.name)
                if spoken or last_try or isinstance(error, TritonTimeout):
                    raise TtsError(f"the speech synthesiser failed: {error}") from error
            except TritonError as error:  # the model's answer to this one text
                raise TtsError(f"the speech synthesiser failed: {error}", unwell=False) from error

    async def check(self) -> None:
        """Raises TtsError when Triton has no ready model for the voice and language of the settings."""
        self._listed = float("-inf")
        await self._choose("", self._settings.language)

    async def models(self) -> list[VoiceModel]:
        """The ready ones. Raises TtsError when Triton cannot be reached."""
        return [
            VoiceModel(
                model.name,
                model.languages,
                model.voices,
                model.voice_languages,
                _SPEEDS if "SPEED" in model.inputs else (1.0, 1.0),
            )
            for model in await self._ready_models()
        ]

    async def close(self) -> None:
        """Waits for streams that are being drained, then closes the channel."""
        await self._drains.close()
        await self._line.close()

    async def _speak(
        self, voice: _Voice, text: str, language: str, speed: float
    ) -> AsyncGenerator[Chunk, None]:
        inputs: dict[str, Array] = {"TEXT": strings(text)}
        if voice.name:
            inputs["VOICE"] = strings(voice.name)
        if language or self._settings.language:
            inputs["LANGUAGE"] = strings(language or self._settings.language)
        if speed != 1.0:
            inputs["SPEED"] = np.array([speed], np.float32)
        empty = True
        loop = asyncio.get_running_loop()
        since = loop.time()
        with self._line.use() as connection:
            responses = stream_decoupled(
                connection.stubs.inference,
                voice.model.name,
                inputs,
                drains=self._drains,
                first_deadline_s=self._settings.first_chunk_ms / 1000,
                next_deadline_s=self._settings.chunk_ms / 1000,
            )
            try:
                async with aclosing(responses):
                    async for response in responses:
                        connection.heard()
                        audio = response.get("AUDIO")
                        if audio is not None and audio.size:
                            empty = False
                            yield Chunk(_pcm(audio), voice.model.sample_rate)
                        since = loop.time()
            except TritonTimeout:
                connection.silent_since(since)
                raise
        if empty:
            raise TtsError(
                f"{voice.model.name} made no audio of a sentence: try another voice or language", unwell=False
            )

    async def _choose(self, voice: str, language: str, model_name: str = "") -> _Voice:
        models = await self._ready_models()
        wanted = model_name or self._settings.model
        if model_name:
            models = [model for model in models if model.name == model_name]
        if not models:
            which = f"model {wanted}" if wanted else "tts_* model"
            raise TtsError(f"no {which} is ready on the Triton at {self._settings.uri}: load one")
        speaking = [m for m in models if wanted or _language_rank(m, language) < 3]
        if not speaking:
            known = ", ".join(sorted({tag for m in models for tag in m.languages}))
            raise TtsError(f"no speech synthesis for language {language}: there is {known}", unwell=False)
        if not voice and any(self._settings.voice in m.voices for m in speaking):
            voice = self._settings.voice  # the usual voice, wherever it speaks the language
        voiced = [m for m in speaking if not voice or not m.voices or voice in m.voices]
        if not voiced:
            known = ", ".join(dict.fromkeys(name for m in speaking for name in m.voices))
            raise TtsError(f"no voice {voice} for language {language}: there is {known}", unwell=False)
        now = asyncio.get_running_loop().time()
        model = min(
            voiced,
            key=lambda m: (
                self._shunned.get(m.name, 0.0) > now,
                bool(voice) and voice not in m.voices,
                m.name not in self._defaults,
                _language_rank(m, language),
                m.name,
            ),
        )
        if not model.sample_rate:
            raise TtsError(
                f"{model.name} does not say its sample_rate: add that parameter to its config.pbtxt",
                unwell=False,
            )
        return _Voice(model, voice)

    async def _ready_models(self) -> list[ModelInfo]:
        loop = asyncio.get_running_loop()
        async with self._listing:
            if self._models and loop.time() - self._listed < _FRESH_S:
                return self._models
            try:
                self._models = await self._list()
            except TritonError as error:
                raise TtsError(
                    f"no Triton answers at {self._settings.uri}: start it, or set PARLEY_TTS__URI ({error})"
                ) from error
            self._listed = loop.time()
            return self._models

    async def _list(self) -> list[ModelInfo]:
        since = asyncio.get_running_loop().time()
        with self._line.use() as connection:
            try:
                return await self._listed_by(connection.stubs.repository)
            except TritonTimeout:
                connection.silent_since(since)
                raise

    async def _listed_by(self, repository: Repository) -> list[ModelInfo]:
        index = await repository.index(ready=True, deadline_s=_CHECK_S)
        wanted = self._settings.model
        names = sorted({m.name for m in index if (m.name == wanted if wanted else m.name.startswith("tts_"))})
        found = await asyncio.gather(
            *(repository.config(name, deadline_s=_CHECK_S) for name in names), return_exceptions=True
        )
        # A model unloaded in between is simply not there.
        configs = [config for config in found if not isinstance(config, BaseException)]
        self._defaults = {c.name for c in configs if c.parameters["default"].string_value == "true"}
        models = [model_info(config) for config in configs]
        return [info for info in models if info.decoupled and "TEXT" in info.inputs]

    def _forget(self, model: str) -> None:
        self._listed = float("-inf")
        self._models = []
        self._shunned[model] = asyncio.get_running_loop().time() + _SHUN_S


def _pcm(audio: Array) -> bytes:
    """As `to_pcm`; what needs no clipping, and that is nearly everything, takes half the passes."""
    samples = audio.reshape(-1)
    if samples.dtype != np.float32:
        return to_pcm(samples)
    scaled = samples * _FULL_SCALE
    # False for NaN too.
    if not (np.maximum.reduce(scaled) <= 32767 and np.minimum.reduce(scaled) >= -32768):
        return to_pcm(samples)
    pcm: bytes = np.rint(scaled, out=scaled).astype("<i2").tobytes()
    return pcm


def _language_rank(model: ModelInfo, language: str) -> int:
    """0: speaks exactly it; 1: the same language of another region; 2: names no languages; 3: no."""
    if not language:
        return 0
    known = [tag.lower() for tag in model.languages]
    if language.lower() in known:
        return 0
    if language.lower().split("-")[0] in (tag.split("-")[0] for tag in known):
        return 1
    return 3 if known else 2
