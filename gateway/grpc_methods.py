"""The method of a gRPC handler, and a handler like it with another: what interceptors and guards do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc


def method_of(handler: Any) -> Any:
    """What is called with a request, or with the requests of a stream, and the call's context."""
    return getattr(handler, _kind(handler))


def with_method(handler: Any, method: Any, parse: Callable[[bytes], Any] | None = None) -> Any:
    """A handler of the same kind. parse: of requests; None: as before."""
    make = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    return make(method, parse or handler.request_deserializer, handler.response_serializer)


def _kind(handler: Any) -> str:
    """As grpc names it: unary_unary, unary_stream, stream_unary or stream_stream."""
    sides = (handler.request_streaming, handler.response_streaming)
    return "_".join("stream" if streams else "unary" for streams in sides)
