"""What a session says, piece by piece, by the model it holds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np

from gateway.audio.pcm import Float
from gateway.audio.resample import MAX_RATE, MIN_RATE
from gateway.riva.tts_api.calibration import Calibration
from gateway.riva.tts_api.errors import Refused
from gateway.riva.tts_api.levels import Levels, VoiceLevel
from gateway.riva.tts_api.ports import Held
from gateway.riva.tts_api.sessions import Manner, Session, Style
from gateway.riva.tts_api.utterance import Chunk
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable

_SPEEDS = (0.5, 2.0)
_REMEMBERED = 64


class Figures:
    """How fast the models are, over the last pieces."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self.speaking = 0
        """Pieces that a model is speaking now."""

    def note(self, waited_s: float, audio_s: float) -> None:
        self._pieces.append((waited_s, audio_s))

    @property
    def rtf(self) -> float:
        """Seconds waited for a second of audio; 0 before any."""
        audio_s = sum(audio for _, audio in self._pieces)
        return sum(waited for waited, _ in self._pieces) / audio_s if audio_s else 0.0


class Speaking:
    """One per service."""

    def __init__(self, target_lufs: float) -> None:
        self._calibration = Calibration(target_lufs)
        self._levels = Levels()
        self.figures = Figures()

    async def know(self, held: Held, style: Style, *, wait_s: float) -> None:
        """Learns how loud the voice is, if nobody did before."""
        level = self._level(held.model.name, held.voice, style)
        language = held.language or next(iter(held.model.languages), "")

        def speak(sentence: str) -> AsyncGenerator[Chunk, None]:
            return self._once(held, sentence, held.voice, held.language, style)

        await self._calibration.known(level, language, speak, wait_s=wait_s)

    async def close(self) -> None:
        await self._calibration.close()

    async def say(self, session: Session, piece: str, manner: Manner) -> AsyncGenerator[Chunk, None]:
        """The audio of a piece, as it is made. A model that went away before the first of it is loaded again, or
        another one takes its place, once; it speaks with its own voice. Raises: TritonError, Refused."""
        language = manner.language
        for last_try in (False, True):
            heard = False
            held = session.held
            voice, style = manner.voice, manner.style
            if held.model.name != manner.model:
                # It has taken the place of the one that the utterance began with.
                voice, style = held.voice, checked_style(style.name, style.speed, held)
            try:
                async with aclosing(self._once(held, piece, voice, language, style)) as chunks:
                    async for chunk in chunks:
                        heard = True
                        yield chunk
                if not heard:
                    raise TritonError(f"{held.model.name} made no audio of {piece.strip()[:80]!r}")
                return
            except TritonUnavailable as error:
                await held.source.recover(error)
                if heard or last_try or isinstance(error, TritonTimeout):
                    raise
            await session.renew()

    async def _once(
        self, held: Held, piece: str, voice: str, language: str, style: Style
    ) -> AsyncGenerator[Chunk, None]:
        model = held.model
        level = self._level(model.name, voice, style)
        parts = held.source.speak(_inputs(piece, voice, language, style))
        loop = asyncio.get_running_loop()
        waited = audio_s = 0.0
        self.figures.speaking += 1
        try:
            async with aclosing(parts):
                since = loop.time()
                async for part in parts:
                    waited += loop.time() - since
                    samples = _samples(part)
                    if samples.size:
                        audio_s += samples.size / model.sample_rate
                        yield Chunk(samples, model.sample_rate, level)
                    since = loop.time()
        finally:
            self.figures.speaking -= 1
            if audio_s:
                self.figures.note(waited, audio_s)

    def _level(self, model: str, voice: str, style: Style) -> VoiceLevel:
        return self._levels.of(model, voice, f"{style.name}@{style.speed:g}")


def checked_style(name: str, speed: float, held: Held) -> Style:
    """Raises Refused."""
    if speed and not _SPEEDS[0] <= speed <= _SPEEDS[1]:
        raise Refused(f"speed is {speed:g}: use {_SPEEDS[0]} to {_SPEEDS[1]}, or 0 for the normal one")
    if speed and "SPEED" not in held.model.inputs:
        raise Refused(f"{held.model.name} has one speed: leave `speed` 0, or use another model")
    if name and "STYLE" not in held.model.inputs:
        raise Refused(f"{held.model.name} knows no styles: leave `style` empty, or use another model")
    return Style(name, speed)


def check_rate(held: Held) -> None:
    """Raises TritonError."""
    if not MIN_RATE <= held.model.sample_rate <= MAX_RATE:
        raise TritonError(
            f"{held.model.name} says sample_rate {held.model.sample_rate}: "
            f"its config.pbtxt must say one of {MIN_RATE} to {MAX_RATE} Hz"
        )


def _inputs(piece: str, voice: str, language: str, style: Style) -> dict[str, Array]:
    inputs: dict[str, Array] = {"TEXT": text(piece.strip())}
    if voice:
        inputs["VOICE"] = text(voice)
    if language:
        inputs["LANGUAGE"] = text(language)
    if style.name:
        inputs["STYLE"] = text(style.name)
    if style.speed:
        inputs["SPEED"] = np.array([style.speed], np.float32)
    return inputs


def _samples(part: dict[str, Array]) -> Float:
    audio = part.get("AUDIO")
    if audio is None:
        return np.zeros(0, np.float32)
    samples = audio.reshape(-1)
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    return samples.astype(np.float32, copy=False)
