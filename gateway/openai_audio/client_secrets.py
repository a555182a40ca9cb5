"""POST /v1/realtime/client_secrets: what a web site's server asks for, so that a browser gets no API key.

Request and answer are OpenAI's (platform.openai.com/docs/api-reference/realtime-sessions/create-realtime-client-secret).
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.identity import ANYBODY, Denied, Identity
from gateway.identity.asgi_guard import CALLER
from gateway.openai_audio.body import json_object
from gateway.openai_audio.errors import ERRORS, ApiError, bad
from gateway.settings import AuthSettings

PATH = "/v1/realtime/client_secrets"
_LONGEST_JSON = 64 * 1024
_STALL_S = 10.0
SECONDS = (10, 7_200)
"""Least and most that a secret may be good for."""


class ClientSecrets:
    """An ASGI app. Whoever comes here may hold conversations; that was looked at before."""

    def __init__(self, identity: Identity, auth: AuthSettings) -> None:
        self._identity, self._usual_s = identity, auth.client_secret_s
        self._app = Starlette(
            routes=[Route(PATH, self._create, methods=["POST"])],
            exception_handlers=ERRORS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _create(self, request: Request) -> Response:
        body: dict[str, Any] = {}
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            body = await json_object(request, most=_LONGEST_JSON, stall_s=_STALL_S)
        if unknown := body.keys() - {"expires_after", "session"}:
            raise bad(f"Unknown parameter: '{min(unknown)}'.", min(unknown), "unknown_parameter")
        seconds, session = _seconds(body.get("expires_after"), self._usual_s), _session(body.get("session"))
        try:
            value, expires_at = self._identity.client_secret(
                request.scope.get(CALLER, ANYBODY), seconds, {k: v for k, v in session.items() if k != "type"}
            )
        except Denied as denied:
            raise ApiError(403, f"{_upper(str(denied))}.", code="insufficient_permissions") from None
        except ValueError as error:
            raise bad(f"{_upper(str(error))}.", "session", "string_above_max_length") from None
        shown = {"object": "realtime.session", "id": f"sess_{uuid4().hex}", **session}
        answer = {"value": value, "expires_at": expires_at, "session": shown}
        return JSONResponse(answer, headers={"cache-control": "no-store"})


def _seconds(expires_after: object, usual: int) -> int:
    if expires_after is None:
        return usual
    if not isinstance(expires_after, dict) or expires_after.get("anchor", "created_at") != "created_at":
        raise bad(
            'expires_after must be an object, as in {"anchor": "created_at", "seconds": 600}.',
            "expires_after",
        )
    seconds = expires_after.get("seconds", usual)
    least, most = SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not least <= seconds <= most:
        raise bad(
            f"expires_after.seconds must be a whole number from {least} to {most}.", "expires_after.seconds"
        )
    return seconds


def _session(given: object) -> dict[str, Any]:
    if given is None:
        return {"type": "realtime"}
    if not isinstance(given, dict):
        raise bad('session must be an object, as in {"type": "realtime"}.', "session")
    if given.get("type", "realtime") != "realtime":
        raise bad("session.type must be realtime: a secret is for a conversation.", "session.type")
    return {"type": "realtime"} | given


def _upper(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
