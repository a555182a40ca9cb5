"""HTTP requests in traces: an ASGI app around another."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.telemetry.context import Passed, Spot, read_trace, spot

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing


class TracedApp:
    """What the app asks of others for a request carries the request's trace context along."""

    def __init__(self, app: ASGIApp, tracing: Tracing | None, paths: Collection[str]) -> None:
        """paths: that name a span; requests to others are named by their method, since clients make up paths."""
        self._app, self._tracing, self._paths = app, tracing, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = read_trace(
            (key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]
        )
        here: Spot | None = Passed(caller) if caller else None
        if self._tracing is not None:
            method, path = scope["method"], scope["path"]
            named = path in self._paths
            about = {"http.request.method": method} | ({"http.route": path} if named else {})
            here = self._tracing.request(f"{method} {path}" if named else method, caller, about)
        if here is None:
            await self._app(scope, receive, send)
            return
        await self._serve(here, scope, receive, send)

    async def _serve(self, here: Spot, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                here.note(**{"http.response.status_code": status})
            await send(message)

        before = spot.set(here)
        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            here.end(error=type(error).__name__)
            raise
        finally:
            spot.reset(before)
            here.end(error=f"status {status}" if status >= 500 else "")
