"""Identity for HTTP: an ASGI app around another one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.identity.caller import ADMIN, AUDIO, METRICS, REVOKED, VOICE, Denied, shown
from gateway.identity.identity import Identity

CALLER = "parley.caller"
"""Under this name a request's scope has its `Caller`."""
OPEN = ""
"""The scope of what everybody may see."""
_UNREAD_BYTES, _UNREAD_S = 1 << 20, 2.0
"""What a refused client may still send, so that it reads why; then the connection is closed."""
_POLICY, _LONGEST_REASON = 1008, 120
"""RFC 6455: policy violation; a reason has at most 123 bytes."""
_HEALTH = ("/healthz", "/readyz", "/admitz")

ScopeOf = Callable[[str], str]
"""The scope that a path takes; `OPEN` for none."""


def public_scope(path: str) -> str:
    """Of the public listener."""
    if path in _HEALTH or path == "/openapi.json":
        return OPEN
    return VOICE if path == "/v1/realtime" or path.startswith("/v1/realtime/") else AUDIO


def admin_scope(open_metrics: bool) -> ScopeOf:
    """Of a listener for operators. What is not known there takes the scope admin as well."""

    def scope(path: str) -> str:
        if path in _HEALTH or path == "/openapi.json" or (open_metrics and path == "/metrics"):
            return OPEN
        return METRICS if path == "/metrics" else ADMIN

    return scope


class RequireIdentity:
    """Before the app: who calls, and whether that is within their limits. A request whose key is revoked is ended."""

    def __init__(self, app: ASGIApp, identity: Identity, scope_of: ScopeOf) -> None:
        self._app, self._identity, self._scope_of = app, identity, scope_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = (
            OPEN
            if scope["type"] not in ("http", "websocket") or not self._identity.configured
            else self._scope_of(scope["path"])
        )
        if wanted == OPEN:
            await self._app(scope, receive, send)
            return
        inside = begun = revoked = False
        task = asyncio.current_task()
        assert task is not None

        def on_revoked() -> None:
            nonlocal revoked
            revoked = True
            task.cancel(REVOKED)

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with self._identity.admitted(_credential(scope), wanted, on_revoked) as caller:
                scope[CALLER] = caller
                inside = True
                await self._app(scope, receive, sending)
        except Denied as denied:
            if inside:
                raise
            await _refuse(denied, scope, receive, send)
        except asyncio.CancelledError:
            if not revoked or task.uncancel() > 0:
                raise
            if not begun:  # else the answer is cut short, which the server under us does
                await _refusal(Denied("revoked", REVOKED), scope["path"])(scope, receive, send)


def _credential(scope: Scope) -> str:
    return shown((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


async def _refuse(denied: Denied, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":  # refused before it is accepted: HTTP's 403, whatever the reason
        await send({"type": "websocket.close", "code": _POLICY, "reason": str(denied)[:_LONGEST_REASON]})
        return
    await _read_a_little(receive)
    await _refusal(denied, scope["path"])(scope, receive, send)


def _refusal(denied: Denied, path: str) -> Response:
    """In OpenAI's shape under /v1/, in that of our own pages elsewhere."""
    status = {"scope": 403, "limit": 429, "unavailable": 503}.get(denied.reason, 401)
    headers = {"cache-control": "no-store"}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if denied.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(denied.retry_after_s))
    code = {401: "invalid_api_key", 403: "insufficient_permissions", 429: "rate_limit_exceeded"}.get(
        status, "issuer_unavailable"
    )
    text = str(denied)
    error: dict[str, Any] = {"code": code, "message": f"{text[:1].upper()}{text[1:]}."}
    if path.startswith("/v1/"):
        kind = {429: "requests", 503: "server_error"}.get(status, "invalid_request_error")
        error |= {"type": kind, "param": None}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


async def _read_a_little(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    """A client in the middle of a body would otherwise see its connection reset, and not the refusal."""
    left = _UNREAD_BYTES
    try:
        async with asyncio.timeout(_UNREAD_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        pass
