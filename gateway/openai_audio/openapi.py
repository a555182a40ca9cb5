"""`/v1/models`, `/v1/audio/*` and `/v1/realtime/client_secrets` as OpenAPI tells them."""

from __future__ import annotations

from typing import Any

from gateway.audio.encoders import MEDIA_TYPES
from gateway.openai_audio.client_secrets import PATH as CLIENT_SECRETS
from gateway.openai_audio.client_secrets import SECONDS
from gateway.openai_audio.transcription_request import FORMATS
from gateway.settings import OpenAiAudioSettings
from gateway.telemetry.openapi import EVENTS, TEXT, Schema, answer, fields, ref, refusals

_NUMBER: Schema = {"type": "number"}
_SWITCH: Schema = {"enum": ["true", "false", "1", "0"], "default": "false"}
_NAMES: Schema = {"type": "array", "items": TEXT}
_ERROR = fields(
    {
        "error": fields(
            {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            }
        )
    }
)
_MODEL = fields(
    {
        "id": TEXT,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": TEXT,
        "family": TEXT,
    },
    {"voices": _NAMES, "languages": _NAMES},
)
SCHEMAS: dict[str, Schema] = {"Error": _ERROR, "Model": _MODEL}


def _errors(**more: str) -> dict[str, Any]:
    told = {status.strip("_"): answer(about, ref("Error")) for status, about in more.items()}
    return refusals("Error") | {"500": answer("It failed; the log says why.", ref("Error"))} | told


_ASKED_WRONG = {
    "_400": "The request is wrong; `param` names the field.",
    "_404": "There is no such model.",
    "_408": "The request did not arrive.",
    "_413": "It is too large.",
    "_415": "It is of another content type.",
    "_504": "It took too long.",
}


def _name(usual: tuple[str, ...]) -> Schema:
    """Of a model: of the configured one, or any other."""
    return {"anyOf": [{"enum": list(usual)}, {"type": "string", "minLength": 1}]}


def _speech(settings: OpenAiAudioSettings) -> dict[str, Any]:
    optional: dict[str, Schema] = {
        "response_format": {"enum": [*MEDIA_TYPES, None], "default": "mp3"},
        "speed": {"type": ["number", "null"], "minimum": 0.25, "maximum": 4, "default": 1},
        "stream_format": {"enum": ["audio", "sse", None], "default": "audio"},
        "instructions": {"type": ["string", "null"], "description": "Taken, and followed by no model here."},
        "language": {"type": ["string", "null"], "description": "BCP-47, of a voice that speaks several."},
    }
    voice: Schema = {
        "description": "A name out of `/v1/models`, `default`, or one of OpenAI's.",
        "oneOf": [{"type": "string", "minLength": 1}, fields({"id": {"type": "string", "minLength": 1}})],
    }
    body = fields(
        {
            "model": _name(settings.speech_models),
            "input": {
                "type": "string",
                "minLength": 1,
                "maxLength": settings.max_input_chars,
                "description": "The text; it must have a letter or a digit.",
            },
            "voice": voice,
        },
        optional,
    )
    example = {"model": "tts-1", "voice": "default", "input": "Hello."}
    sound = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}
    return {
        "operationId": "speech",
        "summary": "Speaks a text; the sound is sent as it is made.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        },
        "responses": _errors(**_ASKED_WRONG)
        | {
            "200": {
                "description": "Mono at 24 kHz, or events that carry it.",
                "content": {**sound, "text/event-stream": {"schema": EVENTS}},
            }
        },
    }


def _transcriptions(settings: OpenAiAudioSettings) -> dict[str, Any]:
    body = fields(
        {"file": {"type": "string", "format": "binary"}, "model": _name(settings.transcription_models)},
        {
            "language": {"type": "string", "pattern": r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$"},
            "prompt": TEXT,
            "response_format": {"enum": list(FORMATS), "default": "json"},
            "temperature": {"type": "number", "minimum": 0, "maximum": 1},
            "stream": _SWITCH,
            "timestamp_granularities[]": {"type": "array", "items": {"enum": ["word", "segment"]}},
            "keywords[]": _NAMES,
            "chunking_strategy": TEXT,
        },
    )
    told = {
        "application/json": {"schema": fields({"text": TEXT})},
        "text/plain": {"schema": TEXT},
        "text/vtt": {"schema": TEXT},
        "application/x-subrip": {"schema": TEXT},
        "text/event-stream": {"schema": EVENTS},
    }
    return {
        "operationId": "transcribe",
        "summary": "The words of a recording.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": body}}},
        "responses": _errors(**_ASKED_WRONG) | {"200": {"description": "The transcript.", "content": told}},
    }


def paths(settings: OpenAiAudioSettings) -> dict[str, Any]:
    """By path: of what `settings` have served."""
    return {CLIENT_SECRETS: {"post": _client_secrets()}} | (_audio(settings) if settings.enabled else {})


def _client_secrets() -> dict[str, Any]:
    least, most = SECONDS
    expiry: Schema = {
        "type": ["object", "null"],
        "properties": {
            "anchor": {"const": "created_at"},
            "seconds": {"type": "integer", "minimum": least, "maximum": most},
        },
    }
    session: Schema = {"type": ["object", "null"], "properties": {"type": {"const": "realtime"}}}
    asked: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"expires_after": expiry, "session": session},
    }
    made = fields({"value": TEXT, "expires_at": {"type": "integer"}, "session": {"type": "object"}})
    return {
        "operationId": "client_secret",
        "summary": "A secret with which a browser may hold one caller's conversations for a while.",
        "requestBody": {"required": False, "content": {"application/json": {"schema": asked}}},
        "responses": _errors(**_ASKED_WRONG) | {"200": answer("The secret.", made)},
    }


def _audio(settings: OpenAiAudioSettings) -> dict[str, Any]:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    listed = fields({"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}})
    return {
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "Every model; what cannot be reached now is left out.",
                "responses": _errors() | {"200": answer("The models.", listed)},
            }
        },
        "/v1/models/{model}": {
            "get": {
                "operationId": "model",
                "summary": "One model.",
                "parameters": [name],
                "responses": _errors(_404="There is no such model.") | {"200": answer("It.", ref("Model"))},
            }
        },
        "/v1/audio/speech": {"post": _speech(settings)},
        "/v1/audio/transcriptions": {"post": _transcriptions(settings)},
    }
