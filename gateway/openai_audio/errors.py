"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from gateway.listen.asr import AsrError
from gateway.speak.tts import TtsError

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """What a request is answered with instead."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }

    def response(self) -> Response:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is wrong."""
    return ApiError(400, message, param=param, code=code)


def busy(message: str, *, status: int = 503, retry_after_s: int = 1) -> ApiError:
    """Nothing is wrong with the request: it may come again."""
    kind, code = (SERVER, "overloaded") if status == 503 else ("requests", "rate_limit_exceeded")
    return ApiError(status, message, kind=kind, code=code, headers={"retry-after": str(retry_after_s)})


def no_such_model(name: str) -> ApiError:
    """OpenAI's own words."""
    return ApiError(
        404,
        f"The model `{name}` does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


def of_speech(error: TtsError) -> ApiError:
    if error.unwell or error.later:
        return ApiError(
            503, _sentence(error), kind=SERVER, code="synthesiser_unavailable", headers={"retry-after": "2"}
        )
    return bad(_sentence(error))


def of_recognition(error: AsrError) -> ApiError:
    if error.unwell:
        return ApiError(
            503, _sentence(error), kind=SERVER, code="recogniser_unavailable", headers={"retry-after": "2"}
        )
    return bad(_sentence(error))


def failed() -> ApiError:
    """500: our own fault. The server closes the connection after it: a client must not send the next request on it."""
    return ApiError(
        500,
        "The server failed to answer; its log says why.",
        kind=SERVER,
        headers={"connection": "close"},
    )


async def on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Of the router: no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 404:
        found = ApiError(404, f"Invalid URL ({method} {path})", code="unknown_url")
    elif error.status_code == 405:
        found = ApiError(
            405, f"Not allowed to {method} on {path}.", code="method_not_supported", headers=error.headers
        )
    else:
        found = ApiError(error.status_code, str(error.detail), headers=error.headers)
    return found.response()


async def on_failure(_: Request, __: Exception) -> Response:
    return failed().response()


ERRORS: dict[Any, ExceptionHandler] = {
    ApiError: on_api_error,
    HTTPException: on_http_error,
    Exception: on_failure,
}
"""For every Starlette app that answers as OpenAI's API does."""


def _sentence(error: Exception) -> str:
    text = str(error)
    if text.partition(" ")[0].isalpha():  # a model's name stays as it is written
        text = f"{text[:1].upper()}{text[1:]}"
    return text + ("" if text.endswith((".", ")", "!", "?")) else ".")
