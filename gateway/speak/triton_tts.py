"""Synthesis by decoupled Triton models: one ModelStreamInfer call per sentence, on a model that the session holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np

from gateway.audio.pcm import to_pcm
from gateway.settings import ModelsSettings, TtsSettings
from gateway.speak.hold import Notify, Wish
from gateway.speak.tts import Chunk, TtsError, VoiceModel
from gateway.tls.client import client_security
from gateway.triton.codec import Array
from gateway.triton.codec import text as strings
from gateway.triton.errors import ModelFull, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.fleet.hold import Hold
from gateway.triton.manager.events import Event, log_event
from gateway.triton.manager.types import LoadFailed, NoRoom, NotNow
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import NothingFits, Want, decide
from gateway.triton.routing.languages import family_of, voice_of
from gateway.triton.routing.policy import PolicyError
from gateway.triton.routing.session_rule import SwitchRefused

_FAMILY = "tts"
_SPEEDS = (0.5, 2.0)
"""What the contract of `tts_*` models asks of SPEED."""
_FULL_SCALE = np.float32(32768)


class TritonSynthesizer:
    """One for all sessions of the process."""

    def __init__(
        self,
        settings: TtsSettings,
        models: ModelsSettings | None = None,
        *,
        repositories: Sequence[str | Path] = (),
        key: str = "",
        label: str = "gateway",
        on_event: Callable[[Event], None] = log_event,
    ) -> None:
        """repositories: what the Tritons serve from, where it can be read here: models that are not loaded are
        known by that. key: of a restricted model repository API. label: what lists of leases call this process."""
        self._settings = settings
        self.fleet = Fleet(
            settings.uri,
            models=models or ModelsSettings(),
            repositories=repositories,
            security=client_security(settings.tls, "Triton", on=settings.ssl),
            key=key,
            label=label,
            drain_s=settings.chunk_ms / 1000,
            on_event=on_event,
        )

    def hold(self, wish: Wish, notify: Notify) -> TritonVoice:
        """One session's voice."""
        return TritonVoice(self, self._settings, wish, notify, self._settings.first_chunk_ms / 1000)

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`; empty `voice` and `language` mean those of the settings."""
        held = TritonVoice(self, self._settings, Wish(voice, language, model), None, None)
        try:
            async with aclosing(held.synthesize(text, speed=speed)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            held.release()

    async def models(self) -> list[VoiceModel]:
        """Those that are loaded, and those that are loaded on first use. Raises TtsError."""
        await self._look()
        return [
            VoiceModel(
                info.name,
                info.languages,
                info.voices,
                info.voice_languages,
                _SPEEDS if "SPEED" in info.inputs else (1.0, 1.0),
            )
            for info in self.fleet.models()
            if _speaks_at_all(info)
        ]

    async def check(self) -> None:
        """Raises TtsError when Triton has no model for the voice and language of the settings."""
        await self._look()
        want = want_of(self.fleet, self._settings, Wish())
        try:
            choice = decide(self.fleet.candidates(), want, self.fleet.policy("", want))
            serves = choice.serves
            manager = self.fleet.managers().get(serves.server)
            if not serves.resident and manager is not None and (why := manager.refusal(serves.info.name)):
                raise NotNow(why)
        except TritonError as error:
            raise TtsError(f"{error} on the Triton at {self._settings.uri}") from error

    async def close(self) -> None:
        """Waits for streams that are being drained, then closes the channels."""
        await self.fleet.close()

    async def _look(self) -> None:
        try:
            await self.fleet.start()
            await self.fleet.look()
        except PolicyError as error:
            raise TtsError(str(error), unwell=False) from error
        except TritonError as error:
            raise unreachable(self._settings, error) from error


class TritonVoice:
    """A `VoiceHold`."""

    def __init__(
        self,
        owner: TritonSynthesizer,
        settings: TtsSettings,
        wish: Wish,
        notify: Notify | None,
        wait_s: float | None,
    ) -> None:
        """wait_s: longest that a sentence waits for a model to be loaded or repaired; None: as long as that may take."""
        self._wait_s = wait_s
        self._fleet, self._settings, self._notify = owner.fleet, settings, notify
        self._wish = wish
        self._held: Hold | None = None
        self._released = False

    async def prepare(self) -> None:
        try:
            await self._take()
        except TtsError:
            pass  # the first sentence says so

    def change(self, wish: Wish, *, switch: bool) -> None:
        if self._held is not None:
            want = want_of(self._fleet, self._settings, wish)
            try:
                self._held.change(want, wish.policy, switch=switch)
            except (SwitchRefused, NothingFits, PolicyError) as error:
                raise TtsError(str(error), unwell=False) from error
        self._wish = wish

    async def synthesize(self, text: str, *, speed: float = 1.0) -> AsyncGenerator[Chunk, None]:
        """A model that is gone before its first audio is replaced, once."""
        if not any(character.isalnum() for character in text):
            return
        for last_try in (False, True):
            spoken = False
            held, info = await self._take_within(self._wait_s)
            try:
                async with aclosing(self._speak(held, info, text, speed)) as chunks:
                    async for chunk in chunks:
                        spoken = True
                        yield chunk
                return
            except TritonUnavailable as error:
                await held.recover(error)
                if spoken or last_try or isinstance(error, TritonTimeout):
                    raise TtsError(f"the speech synthesiser failed: {error}") from error
            except TritonError as error:  # the model's answer to this one text
                full = isinstance(error, ModelFull)
                raise TtsError(f"the speech synthesiser failed: {error}", unwell=False, later=full) from error

    def release(self) -> None:
        self._released = True
        if self._held is not None:
            self._held.release()

    async def _take_within(self, wait_s: float | None) -> tuple[Hold, ModelInfo]:
        try:
            async with asyncio.timeout(wait_s):
                return await self._take()
        except TimeoutError:
            raise TtsError(
                f"no voice is ready within {wait_s:g} s: its model is being loaded or repaired"
            ) from None

    async def _take(self) -> tuple[Hold, ModelInfo]:
        try:
            if self._held is None:
                await self._fleet.start()
            if self._released:
                raise TtsError("the session has ended", unwell=False)
            held = self._held  # while that was awaited, another may have begun
            if held is None:
                want = want_of(self._fleet, self._settings, self._wish)
                held = self._held = self._fleet.hold(want, policy=self._wish.policy, notify=self._notify)
            info = await held.take()
        except NothingFits as error:
            there = any(family_of(each.info) == _FAMILY for each in self._fleet.candidates())
            raise TtsError(f"{error} (Triton at {self._settings.uri})", unwell=not there) from error
        except PolicyError as error:
            raise TtsError(str(error), unwell=False) from error
        except (NotNow, NoRoom, LoadFailed) as error:  # this one model's trouble: others speak on
            raise TtsError(
                f"the speech synthesiser cannot be used now: {error}", unwell=False, later=True
            ) from error
        except TritonUnavailable as error:
            raise unreachable(self._settings, error) from error
        except TritonError as error:
            raise TtsError(f"the speech synthesiser cannot be used: {error}") from error
        if not info.sample_rate:
            raise TtsError(
                f"{info.name} does not say its sample_rate: add that parameter to its config.pbtxt",
                unwell=False,
            )
        return held, info

    async def _speak(
        self, held: Hold, info: ModelInfo, text: str, speed: float
    ) -> AsyncGenerator[Chunk, None]:
        inputs: dict[str, Array] = {"TEXT": strings(text)}
        if language := self._wish.language or self._settings.language:
            inputs["LANGUAGE"] = strings(language)
        inputs |= held.voice_inputs()
        if speed != 1.0:
            inputs["SPEED"] = np.array([speed], np.float32)
        empty = True
        responses = held.stream(
            inputs,
            first_deadline_s=self._settings.first_chunk_ms / 1000,
            next_deadline_s=self._settings.chunk_ms / 1000,
        )
        async with aclosing(responses):
            async for response in responses:
                audio = response.get("AUDIO")
                if audio is not None and audio.size:
                    empty = False
                    yield Chunk(_pcm(audio), info.sample_rate)
        if empty:
            raise TtsError(
                f"{info.name} made no audio of a sentence: try another voice or language", unwell=False
            )


def want_of(fleet: Fleet, settings: TtsSettings, wish: Wish) -> Want:
    """What a wish asks of a model; the settings' own voice is asked for where some model has it for the language."""
    language, model = wish.language or settings.language, wish.model or settings.model
    voice = wish.voice or settings.voice
    if voice and voice == settings.voice:
        there = (each.info for each in fleet.candidates() if _speaks_at_all(each.info))
        if not any(voice_of(info, voice, language, other_regions=True) is not None for info in there):
            voice = ""
    return Want(_FAMILY, language=language, voice=voice, model=model)


def unreachable(settings: TtsSettings, error: TritonError) -> TtsError:
    return TtsError(f"no Triton serves at {settings.uri}: start it, or set PARLEY_TTS__URI ({error})")


def _speaks_at_all(info: ModelInfo) -> bool:
    return family_of(info) == _FAMILY


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
