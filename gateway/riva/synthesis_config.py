"""A SynthesizeSpeechRequest, checked and put into the inputs of a `tts_*` model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from riva.client.proto import riva_audio_pb2
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.audio.files import decode_file
from gateway.audio.resample import MAX_RATE, MIN_RATE, resample
from gateway.riva.errors import Refused
from gateway.riva.recognition_config import ENCODINGS
from gateway.triton.codec import Array, text
from gateway.triton.model_info import ModelInfo

_MARKUP = re.compile(r"<[^>]*>")
_MOST_CHARACTERS = 2_000
_MODEL_RATE = 16_000
"""Hz of REFERENCE_AUDIO."""
_PROMPT_S = (3.0, 10.0)
_SPEEDS = (0.5, 2.0)
ZERO_SHOT, DICTIONARY = "zero-shot", "custom-dictionary"
"""Tags by which a model says what it can do."""


@dataclass(frozen=True, slots=True)
class Output:
    """How the client wants its audio."""

    rate: int
    """Hz; 0 asks for the model's own."""
    opus: bool
    word_times: bool


def output(request: rtts.SynthesizeSpeechRequest) -> Output:
    """Raises Refused."""
    if request.encoding not in (
        riva_audio_pb2.ENCODING_UNSPECIFIED,
        riva_audio_pb2.LINEAR_PCM,
        riva_audio_pb2.OGGOPUS,
    ):
        raise Refused("Error: Unsupported encoding: synthesised audio is LINEAR_PCM or OGGOPUS")
    rate = request.sample_rate_hz
    if rate and not MIN_RATE <= rate <= MAX_RATE:
        raise Refused(f"Error: Invalid sample rate {rate} Hz: use {MIN_RATE} to {MAX_RATE} Hz")
    return Output(rate, request.encoding == riva_audio_pb2.OGGOPUS, request.enable_word_time_offsets)


def spoken_text(request: rtts.SynthesizeSpeechRequest) -> str:
    """What is to be said; of SSML the words alone. Raises Refused."""
    said: str = request.text.strip()
    if said.startswith("<speak"):
        said = " ".join(_MARKUP.sub(" ", said).split())
    if not said:
        raise Refused("Error: the text is empty: send at least one word to speak")
    if len(said) > _MOST_CHARACTERS:
        raise Refused(
            f"Error: the text has {len(said)} characters, more than {_MOST_CHARACTERS}: send it sentence by "
            "sentence over SynthesizeOnline"
        )
    return said


def inputs(request: rtts.SynthesizeSpeechRequest, said: str, model: ModelInfo) -> Mapping[str, Array]:
    """The tensors of one synthesis, without its voice. Raises Refused, BadAudio."""
    tensors: dict[str, Array] = {"TEXT": text(said)}
    if language := request.language_code.strip():
        tensors["LANGUAGE"] = text(language)
    if request.custom_dictionary:
        _check_dictionary(request.custom_dictionary)
        _need(model, DICTIONARY, "custom_dictionary")
        tensors["DICTIONARY"] = text(request.custom_dictionary)
    if request.HasField("zero_shot_data"):
        _need(model, ZERO_SHOT, "zero_shot_data")
        tensors["REFERENCE_AUDIO"] = _prompt(request.zero_shot_data)
    if style := request.custom_configuration.get("style", ""):
        tensors["STYLE"] = text(style)
    if speed := request.custom_configuration.get("speed", ""):
        tensors["SPEED"] = np.array([_speed(speed)], np.float32)
    return tensors


def _need(model: ModelInfo, tag: str, field: str) -> None:
    if tag not in model.tags:
        raise Refused(f"Error: {model.name} does not support {field}: leave it out, or use another voice")


def _check_dictionary(dictionary: str) -> None:
    for pair in dictionary.split(","):
        grapheme, _, phoneme = pair.partition("  ")
        if not grapheme.strip() or not phoneme.strip():
            raise Refused(
                "Error: custom_dictionary is malformed: write word, two spaces, phonemes; entries joined by commas"
            )


def _prompt(prompt: rtts.ZeroShotData) -> Array:
    samples, rate = decode_file(
        prompt.audio_prompt,
        ENCODINGS.get(prompt.encoding, ENCODINGS[0]),
        prompt.sample_rate_hz,
        max_s=60.0,
    )
    seconds = samples.size / rate if rate else 0.0
    if not _PROMPT_S[0] <= seconds <= _PROMPT_S[1]:
        raise Refused(
            f"Error: the audio prompt is {seconds:.1f} seconds long: "
            f"send {_PROMPT_S[0]:.0f} to {_PROMPT_S[1]:.0f} seconds"
        )
    return resample(samples, rate, _MODEL_RATE).astype(np.float32) / np.float32(32768)


def _speed(value: str) -> float:
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not _SPEEDS[0] <= speed <= _SPEEDS[1]:
        raise Refused(
            f"Error: custom_configuration speed is {value!r}: use a number from {_SPEEDS[0]} to {_SPEEDS[1]}"
        )
    return speed
