"""How loud a voice is, learned before anybody hears it: it says one sentence that goes nowhere.

Without, the first utterance of a voice would have to find its level while it is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from gateway.audio.lufs import LoudnessMeter
from gateway.audio.pcm import to_float
from gateway.riva.tts_api.levels import VoiceLevel
from gateway.riva.tts_api.sound import RATE, Sound
from gateway.riva.tts_api.utterance import Chunk
from gateway.triton.errors import TritonError

_SENTENCES = {
    "de": "Am Abend gehen wir gemeinsam nach Hause, denn morgen beginnt wieder ein ganz neuer Tag.",
    "en": "In the evening we walk home together, because tomorrow another new day begins for all of us.",
    "es": "Por la tarde volvemos juntos a casa, porque mañana empieza otra vez un día nuevo.",
    "fr": "Le soir nous rentrons ensemble à la maison, car demain commence une toute nouvelle journée.",
    "it": "La sera torniamo a casa insieme, perché domani comincia di nuovo un altro giorno.",
    "nl": "In de avond lopen we samen naar huis, want morgen begint er weer een nieuwe dag.",
    "pl": "Wieczorem wracamy razem do domu, bo jutro zaczyna się zupełnie nowy dzień.",
    "pt": "À noite voltamos juntos para casa, porque amanhã começa outra vez um novo dia.",
}
_ANYWHERE = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12."
"""Every engine reads numbers in its own language."""
_PASSES = 3
_DEADLINE_S = 15.0
_MOST_S = 8.0

Speak = Callable[[str], AsyncGenerator[Chunk, None]]


class Calibration:
    """Each voice once, however many sessions ask."""

    def __init__(self, target_lufs: float) -> None:
        self._target = target_lufs
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def known(self, level: VoiceLevel, language: str, speak: Speak, *, wait_s: float) -> None:
        """Returns when the level is known, cannot be learned, or `wait_s` is over; then it goes on by itself."""
        if level.lufs is not None or level.tried:
            return
        task = self._tasks.get(id(level))
        if task is None:
            task = asyncio.create_task(self._learn(level, language, speak), name="level of a voice")
            self._tasks[id(level)] = task
            task.add_done_callback(lambda _: self._tasks.pop(id(level), None))
        await asyncio.wait({task}, timeout=wait_s)

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    async def _learn(self, level: VoiceLevel, language: str, speak: Speak) -> None:
        chunks: list[Chunk] = []
        try:
            async with (
                asyncio.timeout(_DEADLINE_S),
                aclosing(speak(_SENTENCES.get(language.partition("-")[0].lower(), _ANYWHERE))) as said,
            ):
                async for chunk in said:
                    chunks.append(chunk)
                    if sum(c.samples.size / c.rate for c in chunks) >= _MOST_S:
                        break
        except (TritonError, TimeoutError):
            return  # whoever speaks next is told; this voice finds its level while it is heard
        finally:
            level.tried = True
        if chunks:
            await learn(level, chunks, self._target)


async def learn(level: VoiceLevel, chunks: list[Chunk], target_lufs: float) -> None:
    """What the voice's level must be taken for, so that these chunks come out at the target."""
    rate = chunks[0].rate
    meter = LoudnessMeter(rate)
    for chunk in chunks:
        meter.push(chunk.samples)
    lufs = meter.lufs
    if lufs is None:
        return
    # What the limiter takes away depends on the gain, and the gain on that.
    for _ in range(_PASSES):
        trial = VoiceLevel()
        trial.know(lufs, meter.voiced_s)
        heard = LoudnessMeter(RATE)
        sound = Sound(target_lufs, makes_up=False)
        sound.voice(rate, trial)
        try:
            for chunk in chunks:
                _hear(heard, sound.push(chunk.samples))
                await asyncio.sleep(0)  # others have frames to send
            _hear(heard, sound.finish())
        finally:
            sound.close()
        if heard.lufs is None:
            return
        lufs += heard.lufs - target_lufs
    if level.lufs is None:
        level.know(lufs, meter.voiced_s)


def _hear(meter: LoudnessMeter, frames: list[bytes]) -> None:
    if frames:
        meter.push(to_float(b"".join(frames)))
