"""HTTP on an address of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from gateway.app.address import split_address
from gateway.app.proxied import Proxied
from gateway.proxies import TrustedProxies
from gateway.settings import AuthSettings, Settings, TlsSettings
from gateway.telemetry.http_server import HttpServer, serve_http
from gateway.tls.server import H2, HTTP1, server_context

if TYPE_CHECKING:
    import ssl


async def listen_http(
    app: ASGIApp, address: str, settings: Settings, subject: str, *, of_operators: bool = False
) -> tuple[HttpServer, str]:
    """The server of `app`, started on host:port, and its URL without a path.

    subject: as the log names the listener. of_operators: it speaks TLS only with `tls.admin`.
    Raises OSError when the address cannot be had, or certificates or proxies are not what they should be.
    """
    host, port = split_address(address)
    tls = settings.tls
    context = None if of_operators and not tls.admin else server_context(tls, subject, HTTP1)
    server = serve_http(Proxied(app, proxies_of(settings.auth)), host, port, context)
    return server, f"{'https' if context else 'http'}://{host}:{await server.start()}"


def proxies_of(auth: AuthSettings) -> TrustedProxies:
    """Raises OSError for what is no network."""
    return TrustedProxies(auth.trusted_proxies, auth.proxy_header)


def grpc_tls(tls: TlsSettings) -> ssl.SSLContext | None:
    """For parley.v1. Raises OSError when certificates cannot be used."""
    return server_context(tls, "parley.v1", H2)
