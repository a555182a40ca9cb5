"""What goes wrong, as gRPC statuses with one clear sentence each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gateway.riva.errors import Context, Refused, status_of
from gateway.triton.manager.types import InUse, LoadFailed, NoRoom, NoSuchModel

CODE = grpc.StatusCode
MALFORMED = "a message is not of this method's type: check that the client speaks parley.v1.Tts"


def unknown_session(session_id: str) -> Refused:
    return Refused(f"there is no session {session_id!r}: StartSession makes one", CODE.NOT_FOUND)


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


@asynccontextmanager
async def statuses(
    context: Context, drain: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[None]:
    """Ends the call with the status of what is raised inside; `drain` is awaited before that."""
    try:
        yield
    except grpc.aio.BaseError:
        raise  # aborted already, or the client is gone
    except Exception as error:
        code, text = status(error)
        if drain is not None:
            await drain()
        await context.abort(code, text)


__all__ = ["CODE", "Refused", "status", "statuses", "unknown_session"]
