"""The client behind proxies, for HTTP apps and for the log."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.proxies import TrustedProxies
from gateway.telemetry.context import client_address


class Proxied:
    """An ASGI app around another, whose scope then has the client's own address and scheme."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app, self._proxies = app, proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client"):
            headers: dict[str, str] = {}
            for raw, value in scope["headers"]:
                name, text = raw.decode("latin-1"), value.decode("latin-1")
                headers[name] = f"{headers[name]},{text}" if name in headers else text
            client = self._proxies.client(scope["client"][0], scope["scheme"], headers)
            client_address.set(client.address)
            if client.address != scope["client"][0]:
                scope["client"] = (client.address, 0)
            scope["scheme"] = client.scheme
        await self._app(scope, receive, send)
