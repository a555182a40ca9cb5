"""Bytes that are no protobuf message: refused as such, where gRPC would log a traceback and say UNKNOWN."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gateway.grpc_methods import method_of, with_method
from gateway.riva.errors import MALFORMED
from gateway.riva.tts_api.errors import MALFORMED as TTS_API_MALFORMED


class _Malformed:
    """Takes the place of a message that could not be parsed."""


class RefuseMalformed(grpc.aio.ServerInterceptor):
    """For calls with a single request; a stream's messages are parsed inside its method."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        parse = handler.request_deserializer
        method = method_of(handler)
        if not inspect.iscoroutinefunction(method):  # reflection and the like: not ours
            return handler
        ours = handler_call_details.method.startswith("/parley.")
        text = TTS_API_MALFORMED if ours else MALFORMED

        def parse_or_mark(data: bytes) -> Any:
            try:
                return parse(data)
            except DecodeError:
                return _Malformed()

        async def checked(request: Any, context: Any) -> Any:
            if isinstance(request, _Malformed):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
            return await method(request, context)

        return with_method(handler, checked, parse_or_mark)
