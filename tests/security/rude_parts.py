"""Parts behind a gateway that refuse every call and repeat in their error what they were sent, keys and all, as real ones do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.telemetry.http_server import serve_http


@asynccontextmanager
async def rude_http(status: int = 401) -> AsyncIterator[tuple[str, list[str]]]:
    """http://host:port, and the headers' values it has seen so far."""
    seen: list[str] = []

    async def refuse(request: Request) -> Response:
        seen.extend(request.headers.values())
        told = "; ".join(f"{name}: {value}" for name, value in request.headers.items())
        return PlainTextResponse(f"Incorrect API key provided: {told}", status)

    methods = ["GET", "POST"]
    server = serve_http(Starlette(routes=[Route("/{path:path}", refuse, methods=methods)]), "127.0.0.1", 0)
    port = await server.start()
    try:
        yield f"http://127.0.0.1:{port}", seen
    finally:
        await server.stop()


class _Refuse(grpc.aio.ServerInterceptor):
    def __init__(self, seen: list[str], status: grpc.StatusCode) -> None:
        self._seen, self._status = seen, status

    async def intercept_service(self, _: object, details: grpc.HandlerCallDetails) -> Any:
        sent = [(str(key), str(value)) for key, value in details.invocation_metadata]
        self._seen.extend(value for _, value in sent)
        told = "; ".join(f"{key}: {value}" for key, value in sent)

        async def refuse(requests: object, context: Any) -> None:
            await context.abort(self._status, f"who is this? {told}")

        return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def rude_grpc(
    status: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED,
) -> AsyncIterator[tuple[str, list[str]]]:
    """host:port of a server with every method there is, and the metadata's values it has seen so far."""
    seen: list[str] = []
    server = grpc.aio.server(interceptors=[_Refuse(seen, status)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", seen
    finally:
        await server.stop(0)
