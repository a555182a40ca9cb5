"""The form of POST /v1/audio/transcriptions, checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile

from gateway.openai_audio.errors import bad

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_GRANULARITIES = ("word", "segment")
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_LONGEST_HINT = 100
_MOST_HINTS = 200


@dataclass(frozen=True, slots=True)
class Transcription:
    file: UploadFile
    model: str
    language: str
    """BCP-47 or ISO 639-1; "" leaves it to the settings."""
    form: str
    """One of FORMATS."""
    words: bool
    segments: bool
    hints: tuple[str, ...]
    temperature: float
    """Shown again; no recogniser here has one."""
    stream: bool
    pause_ms: int
    """Silence that ends a passage; 0: as usual."""


def transcription(form: FormData) -> Transcription:
    """Raises ApiError. What OpenAI's own models alone can do is refused, not passed over."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise bad(
            "Missing required parameter: 'file': send the recording as a file of the form.",
            "file",
            "missing_required_parameter",
        )
    model = _field(form, "model")
    if not model:
        raise bad("you must provide a model parameter", "model", "missing_required_parameter")
    shape = _field(form, "response_format") or "json"
    if shape not in FORMATS:
        raise bad(
            f"response_format '{shape[:100]}' is not known here: use one of {', '.join(FORMATS)}.",
            "response_format",
            "unsupported_value",
        )
    if _list(form, "include"):
        raise bad("No log probabilities can be had of this recogniser: leave 'include' out.", "include")
    granularities = _list(form, "timestamp_granularities")
    if wrong := [value for value in granularities if value not in _GRANULARITIES]:
        raise bad(
            f"Invalid value: '{wrong[0][:100]}'. Supported values are: 'word' and 'segment'.",
            "timestamp_granularities",
            "invalid_value",
        )
    if granularities and shape != "verbose_json":
        raise bad("timestamp_granularities needs response_format 'verbose_json'.", "timestamp_granularities")
    stream = _boolean(form, "stream")
    if stream and shape not in ("json", "text"):
        raise bad(f"response_format '{shape}' cannot be streamed: use 'json'.", "response_format")
    return Transcription(
        file,
        model,
        _language(form),
        shape,
        "word" in granularities,
        "segment" in granularities or not granularities,
        _hints(_field(form, "prompt"), _list(form, "keywords")),
        _temperature(form),
        stream,
        _pause_ms(form),
    )


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def _list(form: FormData, name: str) -> list[str]:
    """Clients write lists as `name[]`, as `name`, or as `name[0]`."""
    return [
        value
        for key, value in form.multi_items()
        if isinstance(value, str) and value and re.fullmatch(rf"{name}(\[\d*\])?", key)
    ]


def _boolean(form: FormData, name: str) -> bool:
    value = _field(form, name).lower()
    if value not in ("", "true", "false", "1", "0"):
        raise bad(f"Invalid type for '{name}': it must be true or false.", name, "invalid_type")
    return value in ("true", "1")


def _language(form: FormData) -> str:
    language = _field(form, "language") or next(iter(_list(form, "languages")), "")
    if language and not _TAG.fullmatch(language):
        raise bad(
            f"Invalid language '{language[:100]}': write ISO-639-1 or BCP-47, such as 'en' or 'en-US'.",
            "language",
            "invalid_language_format",
        )
    return language


def _temperature(form: FormData) -> float:
    value = _field(form, "temperature")
    try:
        temperature = float(value or 0)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        raise bad("Invalid 'temperature': it must be a number from 0 to 1.", "temperature", "invalid_value")
    return temperature


def _pause_ms(form: FormData) -> int:
    """Of chunking_strategy: "auto", or {"type": "server_vad", "silence_duration_ms": …, …}."""
    value = _field(form, "chunking_strategy") or _field(form, "chunking_strategy[type]") or "auto"
    if value == "auto":
        return 0
    try:
        strategy: Any = json.loads(value) if value != "server_vad" else {"type": value}
        if strategy["type"] != "server_vad":
            raise ValueError
        silence: Any = strategy.get("silence_duration_ms") or _field(
            form, "chunking_strategy[silence_duration_ms]"
        )
        return max(100, min(int(silence), 10_000)) if silence else 0
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise bad(
            "Invalid 'chunking_strategy': use \"auto\" or an object of type server_vad.",
            "chunking_strategy",
            "invalid_value",
        ) from None


def _hints(prompt: str, keywords: list[str]) -> tuple[str, ...]:
    """The phrases of a prompt: recognisers favour phrases, they do not read on from a text."""
    phrases = [*keywords, *re.split(r"[,;.:!?\n]+", prompt)]
    kept = (phrase.strip()[:_LONGEST_HINT] for phrase in phrases)
    return tuple(dict.fromkeys(phrase for phrase in kept if phrase))[:_MOST_HINTS]
