"""Who speaks in the demo, and what: lines that the recogniser understands from the user's synthetic voice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.audio.pcm import rms_dbfs, to_float, to_int16
from gateway.audio.resample import resample
from gateway.cli.common import Fault
from gateway.settings import TtsSettings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError
from gateway.triton.model_info import ModelInfo
from gateway.triton.repository import Repository
from gateway.triton.routing.languages import base_language

RATE = 16_000
"""Hz of the user's speech."""
_LANGUAGE = "en"
_QUIET_DBFS = -45.0
"""Below this the user's voice has ended: synthesised speech trails off into silence."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the user says."""

    words: str
    interrupts: bool = False
    """Said over the reply to the line before."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who speaks: voices of the loaded models, and lines that the recogniser understands from this user."""

    user: str
    assistant: str
    remark: str
    lines: tuple[Line, ...]


_FLITE = Cast(
    user="rms",
    assistant="slt",
    remark="the user's voice is flite's rms, the assistant's is flite's slt",
    lines=(
        Line("hello there. what can you do for me?"),
        Line("my name is mary"),
        Line("i want to hear a long story"),
        Line("excuse me. what time is it?", interrupts=True),
        Line("do you remember my name?"),
        Line("goodbye"),
    ),
)
_ESPEAK = Cast(
    user="en-us",
    assistant="en-gb",
    remark="libflite is not here: both voices are espeak-ng's, the user's en-us, the assistant's en-gb",
    lines=(
        Line("what can you do for me?"),
        Line("my name is mary"),
        Line("can you tell me a story?"),
        Line("excuse me. what time is it?", interrupts=True),
        Line("do you remember my name?"),
    ),
)


async def user_speech(triton: str, assistant: str = "") -> tuple[Cast, list[bytes]]:
    """The user's lines, spoken by the second voice: PCM16 at `RATE`. Raises Fault, TtsError.

    assistant: the model that must be the assistant's voice; "" for the built-in cast.
    """
    synthesizer = TritonSynthesizer(TtsSettings(uri=triton, language=_LANGUAGE))
    try:
        voices = await _voices(triton)
        cast = (
            _cast_around(assistant, voices)
            if assistant
            else _cast([one for its in voices.values() for one in its])
        )
        return cast, [await _speak(synthesizer, cast.user, line.words) for line in cast.lines]
    finally:
        await synthesizer.close()


async def _voices(triton: str) -> dict[str, list[str]]:
    """For the demo's language, of every loaded model that speaks, by model."""
    channel = open_channel(triton)
    try:
        repository = Repository(channel)
        ready = [m.name for m in await repository.index(ready=True) if m.name.startswith("tts_")]
        return {name: _speaking(await repository.describe(name)) for name in ready}
    except TritonError as error:
        raise Fault(str(error)) from None
    finally:
        await channel.close()


def _speaking(model: ModelInfo) -> list[str]:
    """Its voices for the demo's language, of whatever region."""
    if len(model.voice_languages) != len(model.voices):
        return list(model.voices)
    tags = zip(model.voices, model.voice_languages, strict=True)
    return [voice for voice, tag in tags if base_language(tag) == _LANGUAGE]


def _cast(voices: Sequence[str]) -> Cast:
    """The first cast whose two voices are loaded, else one of whatever is."""
    for cast in (_FLITE, _ESPEAK):
        if cast.user in voices and cast.assistant in voices:
            return cast
    if not voices:
        raise Fault("no loaded model names its voices; `parley models status` shows them")
    user, assistant = voices[-1], voices[0]
    remark = f"the user's voice is {user}, the assistant's is {assistant}"
    return Cast(user, assistant, remark, _ESPEAK.lines)


def _cast_around(model: str, voices: Mapping[str, Sequence[str]]) -> Cast:
    """The model's first voice, and whichever other one there is to speak to it."""
    its = voices.get(model, ())
    if not its:
        raise Fault(
            f"{model} names no voice for {_LANGUAGE}, which the demo is in; `parley models status {model}` says more"
        )
    others = [voice for name, those in voices.items() if name != model for voice in those]
    user = others[0] if others else its[-1]
    remark = f"the assistant's voice is {its[0]} of {model}, the user's is {user}"
    return Cast(user, its[0], remark, _FLITE.lines)


async def _speak(synthesizer: TritonSynthesizer, voice: str, words: str) -> bytes:
    pieces, rate = [], 0
    async for chunk in synthesizer.synthesize(words, voice=voice):
        pieces.append(chunk.pcm)
        rate = chunk.rate
    samples = resample(to_int16(b"".join(pieces)), rate, RATE)
    window = RATE // 100
    end = len(samples)
    while end > window and rms_dbfs(to_float(samples[end - window : end].tobytes())) < _QUIET_DBFS:
        end -= window
    return samples[:end].tobytes()
