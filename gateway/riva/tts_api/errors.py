"""What goes wrong, as gRPC statuses with one clear sentence each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import grpc
from google.protobuf.message import DecodeError

from gateway.riva.errors import Context, Refused, status_of
from gateway.riva.errors import statuses as riva_statuses
from gateway.triton.manager.types import InUse, LoadFailed, NoRoom, NoSuchModel

CODE = grpc.StatusCode
MALFORMED = "a message is not of this method's type: check that the client speaks parley.v1.Tts"


def unknown_session(session_id: str) -> Refused:
    return Refused(f"there is no session {session_id[:128]!r}: StartSession makes one", CODE.NOT_FOUND)


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """What the client is told."""
    if isinstance(error, DecodeError):
        return CODE.INVALID_ARGUMENT, MALFORMED
    for kind, code in _MANAGER:
        if isinstance(error, kind):
            return code, str(error)
    code, text = status_of(error)
    return code, text.removeprefix("Error: ")


_MANAGER = (
    (NoSuchModel, CODE.NOT_FOUND),
    (InUse, CODE.FAILED_PRECONDITION),
    (NoRoom, CODE.RESOURCE_EXHAUSTED),
    (LoadFailed, CODE.FAILED_PRECONDITION),
)


def statuses(
    context: Context, drain: Callable[[], Awaitable[None]] | None = None
) -> AbstractAsyncContextManager[None]:
    """As `gateway.riva.errors.statuses`."""
    return riva_statuses(context, drain, status)


__all__ = ["CODE", "Refused", "status", "statuses", "unknown_session"]
