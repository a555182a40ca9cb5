"""HTTP on an address of ours."""

from __future__ import annotations

from starlette.types import ASGIApp

from gateway.app.address import split_address
from gateway.telemetry.http_server import HttpServer, serve_http


async def listen_http(app: ASGIApp, address: str) -> tuple[HttpServer, str]:
    """The server of `app`, started on host:port, and its URL without a path.

    Raises OSError when the address cannot be had.
    """
    host, port = split_address(address)
    server = serve_http(app, host, port)
    return server, f"http://{host}:{await server.start()}"
