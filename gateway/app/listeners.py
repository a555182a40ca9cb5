"""HTTP on an address of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from gateway.app.address import split_address
from gateway.settings import TlsSettings
from gateway.telemetry.http_server import HttpServer, serve_http
from gateway.tls.server import H2, HTTP1, server_context

if TYPE_CHECKING:
    import ssl


async def listen_http(
    app: ASGIApp, address: str, tls: TlsSettings, subject: str, *, of_operators: bool = False
) -> tuple[HttpServer, str]:
    """The server of `app`, started on host:port, and its URL without a path.

    subject: as the log names the listener. of_operators: it speaks TLS only with `tls.admin`.
    Raises OSError when the address cannot be had, or certificates cannot be used.
    """
    host, port = split_address(address)
    context = None if of_operators and not tls.admin else server_context(tls, subject, HTTP1)
    server = serve_http(app, host, port, context)
    return server, f"{'https' if context else 'http'}://{host}:{await server.start()}"


def grpc_tls(tls: TlsSettings) -> ssl.SSLContext | None:
    """For parley.v1. Raises OSError when certificates cannot be used."""
    return server_context(tls, "parley.v1", H2)
