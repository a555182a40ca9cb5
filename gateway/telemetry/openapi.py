"""Pieces of OpenAPI 3.1 documents, of which each listener serves its own at `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import __version__

PATH = "/openapi.json"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}


def whole(
    title: str, about: str, paths: Mapping[str, Any], schemas: Mapping[str, Any], *, guarded: bool
) -> dict[str, Any]:
    """The document. paths: by path, as OpenAPI writes them; that of the document itself is added. guarded: callers
    must show a credential where a path says no other."""
    own = {
        PATH: {"get": {"operationId": "openapi", "summary": "This document.", "security": [{}], "responses": {
            "200": answer("The document.", {"type": "object", "required": ["openapi", "paths"]}),
        }}}
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__, "description": about},
        "security": [{"bearer": []}, {"header": []}, *([] if guarded else [{}])],
        "paths": {**paths, **own},
        "components": {
            "schemas": {"PageError": PAGE_ERROR, **schemas},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def route(document: Mapping[str, Any]) -> Route:
    """Serves it."""

    async def openapi(_: Request) -> Response:
        return JSONResponse(document)

    return Route(PATH, openapi, methods=["GET"])


def fields(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has these."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


EVENTS: Schema = fields({"data": TEXT})
"""Each of a stream of server-sent events."""


def answer(about: str, schema: Schema, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": about, "content": {media_type: {"schema": schema}}}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


PAGE_ERROR = fields({"error": fields({"code": TEXT, "message": TEXT}, {"type": TEXT, "param": {}})})


def refusals(schema: str = "PageError") -> dict[str, Any]:
    """What who shows no credential, or one that does not do, is told; where credentials are configured."""
    told = ref(schema)
    return {
        "401": answer("No credential, or one that is not known, expired or revoked.", told),
        "403": answer("The credential has not the scope of this path.", told),
        "429": answer(
            "The credential's limits are reached, or all places are taken: see `retry-after`.", told
        ),
        "503": answer("Nothing new is taken now, or a part does not answer: see `retry-after`.", told),
    }


def page(
    operation: str, summary: str, schema: Schema, *, open_to_all: bool = False, **more: Any
) -> dict[str, Any]:
    """A path that is only read. more: further responses, by status with an underscore before it."""
    responses = {"200": answer(summary, schema)} | {key.strip("_"): value for key, value in more.items()}
    if not open_to_all:
        responses = refusals() | responses
    told: dict[str, Any] = {"operationId": operation, "summary": summary, "responses": responses}
    return {"get": told | ({"security": [{}]} if open_to_all else {})}


HEALTHZ = page("healthz", "The process runs.", fields({"status": {"const": "ok"}}), open_to_all=True)
_PART = fields({"ok": TRUTH}, {"error": TEXT})
_READY = fields(
    {"status": TEXT, "parts": {"type": "object", "additionalProperties": _PART}}, {"admitting": TRUTH}
)
READYZ = page(
    "readyz", "Every part can be used.", _READY, open_to_all=True, _503=answer("One cannot.", _READY)
)
_ADMITS = fields({"status": TEXT})
ADMITZ = page(
    "admitz", "New sessions are taken.", _ADMITS, open_to_all=True, _503=answer("They are not, now.", _ADMITS)
)
_METRICS = {
    "200": {
        "description": "Prometheus' text format, or OpenMetrics' where it is asked for.",
        "content": {kind: {"schema": TEXT} for kind in ("text/plain", "application/openmetrics-text")},
    },
    "500": answer("It failed.", ref("PageError")),
}
METRICS: dict[str, Any] = {
    "get": {"operationId": "metrics", "summary": "The metrics.", "responses": refusals() | _METRICS}
}
_DRAIN = fields({"status": {"enum": ["serving", "draining", "drained"]}, "left": {"type": "integer"}})
_WAIT: Schema = {"type": "number", "minimum": 0, "maximum": 3600, "default": 0}
_DRAINING = refusals() | {"200": answer("How it stands.", _DRAIN)}
DRAIN: dict[str, Any] = {
    "get": {"operationId": "draining", "summary": "How draining stands.", "responses": _DRAINING},
    "post": {
        "operationId": "drain",
        "summary": "Begins to drain: nothing new is taken, and what is open may end.",
        "parameters": [
            {
                "name": "wait_s",
                "in": "query",
                "description": "Answers when it is over, or after so long.",
                "schema": _WAIT,
            }
        ],
        "responses": _DRAINING | {"400": answer("`wait_s` is no such time.", ref("PageError"))},
    },
}
