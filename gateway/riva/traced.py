"""Whom a call to the speech service is for: its session and turn in our log lines, its place in a trace."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from gateway.grpc_methods import method_of, with_method
from gateway.riva.streams import KIND_OF
from gateway.telemetry.context import Passed, Spot, read_ids, read_trace, session_id, spot, turn_id

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing


class NameCalls(grpc.aio.ServerInterceptor):
    """For the calls of KIND_OF, each of which runs in a task of its own; it does nothing for each message."""

    def __init__(self, tracing: Tracing | None) -> None:
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None or name not in KIND_OF:
            return handler
        pairs = tuple(handler_call_details.invocation_metadata or ())
        (session, turn), caller = read_ids(pairs), read_trace(pairs)
        if not session and not caller and self._tracing is None:
            return handler
        method = method_of(handler)
        assert inspect.iscoroutinefunction(method), name

        async def named(request: Any, context: Any) -> Any:
            session_id.set(session)
            turn_id.set(turn)
            here: Spot | None = Passed(caller) if caller else None
            if self._tracing is not None:
                service, _, called = name[1:].rpartition("/")
                about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": called}
                ids = {"parley.session_id": session, "parley.turn_id": turn}
                here = self._tracing.request(name[1:], caller, about | {k: v for k, v in ids.items() if v})
            spot.set(here)
            try:
                return await method(request, context)
            except asyncio.CancelledError:
                if here is not None:
                    here.note(cancelled=True)
                raise
            except BaseException:
                if here is not None:
                    here.end(error=_status(context))
                raise
            finally:
                if here is not None:
                    here.end()

        return with_method(handler, named)


def _status(context: Any) -> str:
    """What the client was told."""
    code = context.code()
    name = code.name if isinstance(code, grpc.StatusCode) else f"status {code}"
    return f"{name}: {context.details() or ''}".rstrip(": ")
