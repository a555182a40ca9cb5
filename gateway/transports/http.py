"""HTTP beside the conversation: what anybody may ask, and what operators ask. JSON, also for errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.telemetry import openapi
from gateway.telemetry.draining import Drain, drain_route
from gateway.telemetry.exposition import page
from gateway.telemetry.pages import ERRORS, READY, Check, Readiness, fresh, status_of
from gateway.transports.openapi import admin_document, public_document


class Shown(Protocol):
    """What the pages show: of one gateway process, or of several together."""

    async def parts(self) -> dict[str, dict[str, Any]]:
        """By part: `ok`, and `error` (a sentence) when it is not."""
        ...

    async def admitting(self) -> bool:
        """Whether a new session would be taken."""
        ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, as `exposition.page` has them. accept: the request's header."""
        ...

    async def sessions(self) -> list[dict[str, Any]]:
        """The open sessions."""
        ...


class Own:
    """This process' own pages.

    checks: by part ("asr", "llm", "tts"); each returns when the part is usable, else raises an
    exception whose text is shown. registry: served at /metrics. snapshot: the open sessions.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        registry: CollectorRegistry,
        snapshot: Callable[[], list[dict[str, Any]]],
        admitting: Callable[[], bool] = lambda: True,
    ) -> None:
        self.parts = Readiness(checks).parts
        self._registry, self._snapshot, self._admitting = registry, snapshot, admitting

    async def admitting(self) -> bool:
        return self._admitting()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return page(self._registry, accept)

    async def sessions(self) -> list[dict[str, Any]]:
        return self._snapshot()


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def build_public(
    beside: Mapping[str, ASGIApp] = MappingProxyType({}),
    paths: Mapping[str, Any] = MappingProxyType({}),
    schemas: Mapping[str, Any] = MappingProxyType({}),
    *,
    guarded: bool = False,
) -> Starlette:
    """The ASGI app of the public address: `/healthz`, `/openapi.json`, and nothing else that tells of this process.

    beside: what answers there, by path as a Starlette route has it. paths, schemas: how OpenAPI tells it.
    guarded: callers must show a credential.
    """
    return Starlette(
        routes=[
            Route("/healthz", _healthz),
            openapi.route(public_document(paths, schemas, guarded=guarded)),
            *(Route(path, app) for path, app in beside.items()),
        ],
        exception_handlers=ERRORS,
    )


def build_admin(shown: Shown, drain: Drain, *, guarded: bool = False) -> Starlette:
    """The ASGI app of the operators' address: health, readiness, admission, metrics, sessions, draining. guarded:
    callers must show a credential."""

    async def readyz(_: Request) -> Response:
        parts, admitting = await asyncio.gather(shown.parts(), shown.admitting())
        status = status_of(parts, draining=drain.begun)
        body = {"status": status, "admitting": admitting, "parts": parts}
        return fresh(body, 200 if status == READY else 503)

    async def admitz(_: Request) -> Response:
        admitting = await shown.admitting()
        body = {"status": "takes new sessions" if admitting else "takes no new sessions now"}
        return fresh(body, 200 if admitting else 503)

    async def metrics(request: Request) -> Response:
        body, content_type = await shown.metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def sessions(_: Request) -> Response:
        return fresh({"sessions": await shown.sessions()})

    return Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route("/readyz", readyz),
            Route("/admitz", admitz),
            Route("/metrics", metrics),
            Route("/v1/sessions", sessions),
            drain_route(drain),
            openapi.route(admin_document(guarded=guarded)),
        ],
        exception_handlers=ERRORS,
    )
