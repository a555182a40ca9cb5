"""A chat completion request as the stand-in understands it, checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from gateway.settings import StandInSettings

MAX_BODY = 2 * 1024 * 1024
"""Bytes of a request body."""
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Refused(Exception):
    """The request's own fault, in the API's terms."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class ChatRequest:
    messages: list[tuple[str, str]]
    """(role, text), oldest first."""
    stream: bool
    """Server-sent events instead of one JSON body."""
    include_usage: bool
    """A stream ends with the usage."""
    max_tokens: int | None
    """The reply is cut after so many tokens."""
    stops: tuple[str, ...]
    """The reply is cut before the first of these."""
    first_token_ms: float
    """Wait before the first token."""
    tokens_per_s: float
    """0: as fast as possible."""


async def read_request(request: Request, settings: StandInSettings, model: str) -> ChatRequest:
    """Raises Refused."""
    body = _parse(await _read_body(request))
    asked = body.get("model")
    if not isinstance(asked, str) or not asked:
        raise Refused("You must provide a model parameter.", param="model")
    if asked != model:
        raise Refused(
            f"The model {asked[:80]!r} does not exist here; this is Parley's stand-in and serves {model!r} only.",
            status=404,
            param="model",
            code="model_not_found",
        )
    if body.get("n") not in (None, 1):
        raise Refused("'n' must be 1.", param="n")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refused("'stream_options' must be an object.", param="stream_options")
    return ChatRequest(
        messages=_messages(body.get("messages")),
        stream=_flag(body.get("stream"), "stream"),
        include_usage=_flag(options.get("include_usage"), "stream_options.include_usage"),
        max_tokens=_max_tokens(body),
        stops=_stops(body.get("stop")),
        first_token_ms=_number(request.headers, "x-stand-in-first-token-ms", settings.first_token_ms),
        tokens_per_s=_number(request.headers, "x-stand-in-tokens-per-s", settings.tokens_per_s),
    )


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise Refused(f"The request is larger than {MAX_BODY} bytes.", status=413)
    except ClientDisconnect as error:
        raise Refused("The request ended early.") from error
    return bytes(body)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused("The request body is not JSON.") from error
    if not isinstance(body, dict):
        raise Refused("The request body must be a JSON object.")
    return body


def _messages(raw: object) -> list[tuple[str, str]]:
    if not isinstance(raw, list) or not raw:
        raise Refused("'messages' must be a list with at least one message.", param="messages")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(raw)]


def _message(raw: object, param: str) -> tuple[str, str]:
    if not isinstance(raw, dict):
        raise Refused(f"'{param}' must be an object.", param=param)
    role, content = raw.get("role"), raw.get("content")
    if role not in _ROLES:
        raise Refused(f"'{param}.role' must be one of {', '.join(_ROLES)}.", param=f"{param}.role")
    if content is None and role == "assistant":
        return role, ""
    if isinstance(content, list):
        texts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        content = "\n".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str):
        raise Refused(f"'{param}.content' must be text or a list of parts.", param=f"{param}.content")
    # JSON may hold lone surrogates, which no answer could carry
    return role, content.encode("utf-8", "replace").decode()


def _flag(raw: object, param: str) -> bool:
    if raw is not None and not isinstance(raw, bool):
        raise Refused(f"'{param}' must be true or false.", param=param)
    return bool(raw)


def _max_tokens(body: dict[str, Any]) -> int | None:
    for param in ("max_completion_tokens", "max_tokens"):
        value = body.get(param)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refused(f"'{param}' must be a positive integer.", param=param)
        return value
    return None


def _stops(raw: object) -> tuple[str, ...]:
    stops = [raw] if isinstance(raw, str) else raw or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise Refused("'stop' must be a text or a list of texts.", param="stop")
    return tuple(stops)


def _number(headers: Headers, name: str, default: float) -> float:
    raw = headers.get(name)
    if raw is None:
        return default
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise Refused(f"The header {name} must be a number of at least 0.", param=name)
    return value
