"""The HTTP pages that every process of Parley has: health, readiness, metrics. JSON, also for errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from gateway.telemetry.exposition import page

CHECK_S = 2.0
"""Deadline of one readiness check."""
CACHE_S = 1.0
"""How long a readiness result is used again, so that probes cost the parts little."""

READY = "ready"

Check = Callable[[], Awaitable[None]]


def build_pages(
    checks: Mapping[str, Check],
    registry: CollectorRegistry,
    *,
    draining: Callable[[], bool] = lambda: False,
    beside: Iterable[Route] = (),
) -> Starlette:
    """The ASGI app with `/healthz`, `/readyz` and `/metrics`, and what is `beside` them.

    checks: by part; each returns when the part is usable, else raises an exception whose text is
    shown. registry: served at /metrics. draining: then nothing is ready any more.
    """
    readiness = Readiness(checks)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        parts = await readiness.parts()
        status = status_of(parts, draining=draining())
        return fresh({"status": status, "parts": parts}, 200 if status == READY else 503)

    async def metrics(request: Request) -> Response:
        body, content_type = page(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            *beside,
        ],
        exception_handlers=ERRORS,
    )


def status_of(parts: Mapping[str, Mapping[str, Any]], *, draining: bool) -> str:
    """What /readyz says: READY, or why not."""
    if draining:
        return "draining"
    return READY if all(part["ok"] for part in parts.values()) else "not ready"


def fresh(body: dict[str, Any], status: int = 200) -> Response:
    """JSON that nothing on the way may keep."""
    return JSONResponse(body, status_code=status, headers={"cache-control": "no-store"})


class Readiness:
    """Runs the checks together, once for any number of waiting probes."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._running: asyncio.Task[dict[str, dict[str, Any]]] | None = None
        self._done_at = 0.0

    async def parts(self) -> dict[str, dict[str, Any]]:
        """By part: `ok`, and `error` when it is not."""
        now = asyncio.get_running_loop().time()
        if self._running is None or (self._running.done() and now - self._done_at >= CACHE_S):
            self._running = asyncio.create_task(self._run())
        # shielded: a probe that hangs up must not fail the others
        return await asyncio.shield(self._running)

    async def _run(self) -> dict[str, dict[str, Any]]:
        results = await asyncio.gather(*map(_result, self._checks.values()))
        self._done_at = asyncio.get_running_loop().time()
        return dict(zip(self._checks, results, strict=True))


async def _result(check: Check) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CHECK_S):
            await check()
    except TimeoutError:
        return {"ok": False, "error": f"It did not answer within {CHECK_S:g} s."}
    except Exception as error:
        return {"ok": False, "error": str(error) or type(error).__name__}
    return {"ok": True}


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return _error(error.status_code, code, str(error.detail), error.headers)


async def _fail(_: Request, __: Exception) -> Response:
    return _error(500, "internal", "This page failed; the process's log says why.")


def refusal(status: int, message: str) -> Response:
    """Of a request that makes no sense; message: what to send instead."""
    return _error(status, {403: "forbidden"}.get(status, "bad_request"), message)


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)


ERRORS: dict[Any, ExceptionHandler] = {HTTPException: _refuse, Exception: _fail}
"""For every Starlette app: `{"error": {"code", "message"}}`."""
