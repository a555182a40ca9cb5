"""Refusals and failures as gRPC statuses, with one clear sentence each and never a traceback."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gateway.audio.files import BadAudio
from gateway.triton.errors import ModelFull, SequenceLost, TritonError, TritonTimeout, TritonUnavailable

_LOG = logging.getLogger(__name__)

_OURS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
)
"""What a caller could not have done better: an operator reads of it."""
_MOST_BYTES = 4_000
"""Of a status text, as it is sent: what is not ASCII takes three bytes for one."""

Context = grpc.aio.ServicerContext[Any, Any]

MALFORMED = "Error: a message is not of this method's type: check that the client speaks Riva's protocol"


class Refused(Exception):
    """The request cannot be served. `str()` is the status text."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """What the client is told."""
    if isinstance(error, Refused):
        return error.code, str(error)
    if isinstance(error, DecodeError):
        return (
            grpc.StatusCode.INVALID_ARGUMENT,
            MALFORMED,
        )
    if isinstance(error, BadAudio):
        return grpc.StatusCode.INVALID_ARGUMENT, f"Error: {error}"
    if isinstance(error, TritonTimeout):
        return grpc.StatusCode.DEADLINE_EXCEEDED, f"Error: the model did not answer in time: {error}"
    if isinstance(error, TritonUnavailable | SequenceLost):
        return grpc.StatusCode.UNAVAILABLE, f"Error: the model is not available now, try again: {error}"
    if isinstance(error, ModelFull):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, f"Error: the model is busy, try again: {error}"
    if isinstance(error, TritonError):
        return grpc.StatusCode.INTERNAL, f"Error: the model failed: {error}"
    _LOG.error("a request to the speech service failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "Error: the speech service failed; its log says why"


def short(text: str) -> str:
    """As much of a status text as arrives: one that is longer than HTTP/2's headers may be breaks the call instead."""
    room = _MOST_BYTES
    for at, char in enumerate(text):
        room -= 1 if " " <= char <= "~" else 3 * len(char.encode("utf-8", "replace"))
        if room < 0:
            return f"{text[:at]} …"
    return text


@asynccontextmanager
async def statuses(
    context: Context,
    drain: Callable[[], Awaitable[None]] | None = None,
    status: Callable[[Exception], tuple[grpc.StatusCode, str]] = status_of,
) -> AsyncIterator[None]:
    """Ends the call with the status of what is raised inside; `drain` is awaited before that."""
    try:
        yield
    except grpc.aio.BaseError:
        raise  # aborted already, or the client is gone
    except Exception as error:
        code, text = status(error)
        if code in _OURS:
            _LOG.warning("a call failed: %s: %s", code.name, text)
        if drain is not None:
            await drain()
        await context.abort(code, short(text))
