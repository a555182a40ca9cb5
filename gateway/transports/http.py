"""HTTP beside the conversation: health, readiness, metrics, sessions. JSON, also for errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CHECK_S = 2.0
"""Deadline of one readiness check."""
CACHE_S = 1.0
"""How long a readiness result is used again, so that probes cost the parts little."""

Check = Callable[[], Awaitable[None]]


def build_http(
    checks: Mapping[str, Check],
    registry: CollectorRegistry,
    snapshot: Callable[[], list[dict[str, Any]]],
) -> Starlette:
    """The ASGI app.

    checks: by part ("asr", "llm", "tts"); each returns when the part is usable, else raises an
    exception whose text is shown. registry: served at /metrics. snapshot: the open sessions.
    """
    readiness = _Readiness(checks)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        parts = await readiness.parts()
        ready = all(part["ok"] for part in parts.values())
        body = {"status": "ready" if ready else "not ready", "parts": parts}
        return JSONResponse(body, status_code=200 if ready else 503, headers={"cache-control": "no-store"})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def sessions(_: Request) -> Response:
        return JSONResponse({"sessions": snapshot()}, headers={"cache-control": "no-store"})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/v1/sessions", sessions),
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )


class _Readiness:
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
    return _error(500, "internal", "The gateway failed to answer; see its log.")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)
