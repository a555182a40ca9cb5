"""Identity for gRPC: on our own HTTP/2 server, and as an interceptor of grpc.aio."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from gateway.grpc_methods import method_of, with_method
from gateway.identity.caller import REVOKED, Caller, Denied, shown
from gateway.identity.identity import Identity

_HEALTH = "/grpc.health.v1.Health/"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def credential_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """What a call's metadata shows: `authorization: Bearer …`, else `x-api-key`."""
    return shown((name, _text(value)) for name, value in metadata or ())


def status_of(denied: Denied) -> tuple[grpc.StatusCode, tuple[tuple[str, str], ...]]:
    """The status, and the trailing metadata that tells clients when to come again."""
    code = {
        "scope": grpc.StatusCode.PERMISSION_DENIED,
        "limit": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "unavailable": grpc.StatusCode.UNAVAILABLE,
    }.get(denied.reason, grpc.StatusCode.UNAUTHENTICATED)
    if denied.retry_after_s is None:
        return code, ()
    return code, (("grpc-retry-pushback-ms", str(math.ceil(denied.retry_after_s * 1000))),)


async def refuse(context: Any, denied: Denied) -> NoReturn:
    """Ends the call with the status of it."""
    code, trailing = status_of(denied)
    await context.abort(code, str(denied), trailing)
    raise AssertionError("abort raises")


def guarded(handler: Handler, identity: Identity, scope: str) -> Handler:
    """The handler for those of the scope. A call whose key is revoked meanwhile is ended.

    For handlers of requests that stream, which read nothing before the caller is known.
    """

    async def who(context: Any) -> Caller:
        return await identity.caller(credential_of(context.invocation_metadata()), scope)

    return with_method(handler, _held(method_of(handler), identity, who))  # type: ignore[no-any-return]


class RequireIdentity(grpc.aio.ServerInterceptor):
    """Every call but health's: whoever is refused is refused before the request is read."""

    def __init__(self, identity: Identity, scope: str) -> None:
        self._identity, self._scope = identity, scope

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if (
            handler is None
            or not self._identity.configured
            or handler_call_details.method.startswith(_HEALTH)
        ):
            return handler
        metadata = handler_call_details.invocation_metadata
        try:
            caller = await self._identity.caller(credential_of(metadata), self._scope)
        except Denied as denied:
            return _refusing(denied)

        async def who(_: Any) -> Caller:
            return caller

        return with_method(handler, _held(method_of(handler), self._identity, who))


def _refusing(denied: Denied) -> Handler:
    """Of streams, whatever the method is: such a handler is called before a message was read."""

    async def abort(_: object, context: Any) -> None:
        await refuse(context, denied)

    return grpc.stream_stream_rpc_method_handler(abort)


Who = Callable[[Any], Awaitable[Caller]]
"""The caller of a context. Raises Denied."""


def _held(behaviour: Any, identity: Identity, who: Who) -> Any:
    """The behaviour for the length of `Identity.held`; of the same kind: coroutine or asynchronous generator."""
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with _holding(identity, who, context):
                async for response in behaviour(request, context):
                    yield response

        return stream

    async def answer(request: Any, context: Any) -> Any:
        async with _holding(identity, who, context):
            return await behaviour(request, context)

    return answer


@asynccontextmanager
async def _holding(identity: Identity, who: Who, context: Any) -> AsyncIterator[None]:
    """In the call's task: refuses it, or ends it when its key is revoked."""
    task = asyncio.current_task()
    assert task is not None
    revoked = False

    def on_revoked() -> None:
        nonlocal revoked
        revoked = True
        task.cancel(REVOKED)

    try:
        async with identity.held(await who(context), on_revoked):
            yield
    except Denied as denied:
        await refuse(context, denied)
    except asyncio.CancelledError:
        if not revoked or task.uncancel() > 0:
            raise
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REVOKED)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def guard_all(handlers: Mapping[str, Handler], identity: Identity, scope: str) -> dict[str, Handler]:
    """`guarded`, of a service."""
    return {name: guarded(handler, identity, scope) for name, handler in handlers.items()}
