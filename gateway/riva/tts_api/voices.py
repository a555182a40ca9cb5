"""Models and voices by the names that clients write."""

from __future__ import annotations

from gateway.riva.tts_api.ports import Want
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.languages import voice_base

TTS = "tts"


def is_named(model: ModelInfo, name: str) -> bool:
    """ "tts_flite" and "flite" both name it."""
    return name in (model.name, voice_base(model))


def no_voice(model: str, want: Want) -> str:
    """The sentence for a model without the voice or the language that is wanted of it."""
    parts = [
        f"{word} {value!r}" for word, value in (("voice", want.voice), ("language", want.language)) if value
    ]
    return f"no {' for '.join(parts)} of model {model!r}: ListModels says what there is"
