"""POST /v1/audio/speech: text to a sound file, sent as it is made."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateway.audio.encoders import MEDIA_TYPES, make_encoder
from gateway.audio.pcm import Int16, to_int16
from gateway.audio.stretch import Stretcher
from gateway.openai_audio.errors import ApiError, bad, of_speech
from gateway.openai_audio.names import ChosenVoice
from gateway.settings import PlayoutSettings
from gateway.speak.shaping import Shaper
from gateway.speak.tts import Synthesizer, TtsError
from gateway.think.sentences import SentenceSplitter, spoken

RATE = 24_000
"""Hz of everything that is sent."""
_SPEEDS = (0.25, 4.0)
_TOKENS_PER_S = 20
"""Of speech, in `usage`: one for every 50 ms."""


@dataclass(frozen=True, slots=True)
class Speech:
    """A request, checked."""

    text: str
    model: str
    voice: str
    language: str
    form: str
    """A key of MEDIA_TYPES."""
    speed: float
    sse: bool


def speech(body: Mapping[str, Any], *, most_chars: int) -> Speech:
    """Raises ApiError for what cannot be served; `instructions` is taken, and no model here follows it."""
    model, text = _string(body, "model"), _string(body, "input")
    voice = body.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id")
    if not isinstance(voice, str) or not voice:
        raise bad(
            "You must provide a `voice`: a name such as 'default'.", "voice", "missing_required_parameter"
        )
    if len(text) > most_chars:
        raise bad(
            f"Invalid 'input': the text has {len(text)} characters, and at most {most_chars} are spoken at once.",
            "input",
            "string_above_max_length",
        )
    if not any(character.isalnum() for character in text):
        raise bad("Invalid 'input': there is nothing to say in it.", "input")
    if not isinstance(body.get("instructions") or "", str):
        raise bad("Invalid 'instructions': it must be a string.", "instructions", "invalid_type")
    language = body.get("language") or ""
    if not isinstance(language, str):
        raise bad("Invalid 'language': it must be a BCP-47 tag, such as 'en-US'.", "language", "invalid_type")
    return Speech(
        text,
        model,
        voice,
        language,
        _one_of(body, "response_format", "mp3", tuple(MEDIA_TYPES)),
        _speed(body.get("speed")),
        _one_of(body, "stream_format", "audio", ("audio", "sse")) == "sse",
    )


async def audio(
    asked: Speech, voice: ChosenVoice, synthesizer: Synthesizer, playout: PlayoutSettings
) -> AsyncGenerator[bytes, None]:
    """The bytes of the file. Raises ApiError."""
    encoder = make_encoder(asked.form, RATE)
    async with aclosing(_samples(asked, voice, synthesizer, playout)) as pieces:
        async for samples in pieces:
            if made := encoder.encode(samples):
                yield made
    if rest := encoder.close():
        yield rest


async def audio_events(
    asked: Speech, voice: ChosenVoice, synthesizer: Synthesizer, playout: PlayoutSettings
) -> AsyncGenerator[dict[str, Any], None]:
    """The same as events. `usage` counts words as tokens, and speech by the 50 ms. Raises ApiError."""
    encoder = make_encoder(asked.form, RATE)
    count = 0
    async with aclosing(_samples(asked, voice, synthesizer, playout)) as pieces:
        async for samples in pieces:
            count += samples.size
            if made := encoder.encode(samples):
                yield _delta(made)
    if rest := encoder.close():
        yield _delta(rest)
    words, sounds = len(asked.text.split()), math.ceil(count * _TOKENS_PER_S / RATE)
    usage = {"input_tokens": words, "output_tokens": sounds, "total_tokens": words + sounds}
    yield {"type": "speech.audio.done", "usage": usage}


def _delta(made: bytes) -> dict[str, Any]:
    return {"type": "speech.audio.delta", "audio": base64.b64encode(made).decode()}


async def _samples(
    asked: Speech, voice: ChosenVoice, synthesizer: Synthesizer, playout: PlayoutSettings
) -> AsyncGenerator[Int16, None]:
    """int16 [n] at RATE, sentence by sentence: levelled, at the speed asked for, never empty."""
    own = min(max(asked.speed, voice.speeds[0]), voice.speeds[1])
    stretcher = Stretcher(RATE, asked.speed / own) if own != asked.speed else None
    shaper = Shaper(RATE, playout.loudness_dbfs)
    splitter = SentenceSplitter(playout.first_sentence_chars)
    empty = True
    try:
        for piece in splitter.feed(asked.text) + splitter.flush():
            sentence = synthesizer.synthesize(
                spoken(piece), voice=voice.voice, language=voice.language, speed=own, model=voice.model
            )
            async with aclosing(sentence):
                async for chunk in sentence:
                    samples = _shaped(to_int16(shaper.push(chunk)), stretcher)
                    if samples.size:
                        empty = False
                        yield samples
        rest = _shaped(to_int16(shaper.finish()), stretcher)
        if stretcher is not None:
            rest = np.concatenate((rest, stretcher.flush()))
        if rest.size:
            empty = False
            yield rest
    except TtsError as error:
        raise of_speech(error) from error
    finally:
        shaper.close()
    if empty:
        raise bad("Invalid 'input': the voice has nothing to say of it.", "input")


def _shaped(samples: Int16, stretcher: Stretcher | None) -> Int16:
    return samples if stretcher is None else stretcher.push(samples)


def _string(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "":
        raise bad(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if not isinstance(value, str):
        raise bad(f"Invalid type for '{name}': it must be a string.", name, "invalid_type")
    return value


def _one_of(body: Mapping[str, Any], name: str, usual: str, known: tuple[str, ...]) -> str:
    value = body.get(name)
    if value is None:
        return usual
    if value not in known:
        raise bad(
            f"Invalid value: '{str(value)[:100]}'. Supported values are: {_quoted(known)}.",
            name,
            "invalid_value",
        )
    return str(value)


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names[:-1]) + f" and '{names[-1]}'"


def _speed(value: Any) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad("Invalid type for 'speed': it must be a number.", "speed", "invalid_type")
    if not _SPEEDS[0] <= value <= _SPEEDS[1]:
        raise bad(
            f"Invalid 'speed': {str(value)[:20]} is outside {_SPEEDS[0]:g} to {_SPEEDS[1]:g}.",
            "speed",
            "decimal_above_max_value" if value > 1 else "decimal_below_min_value",
        )
    return float(value)


def explain(error: Exception) -> ApiError | None:
    """What of a stream's failures a client is told."""
    return error if isinstance(error, ApiError) else None
