"""What the public and the operators' address say of themselves at `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.telemetry.openapi import (
    ADMITZ,
    DRAIN,
    HEALTHZ,
    METRICS,
    READYZ,
    TEXT,
    answer,
    fields,
    page,
    ref,
    whole,
)

_SESSION = fields({"session_id": TEXT, "state": TEXT})


def public_document(paths: Mapping[str, Any], schemas: Mapping[str, Any], *, guarded: bool) -> dict[str, Any]:
    """paths, schemas: of what answers there beside `/healthz`."""
    about = "What callers use over HTTP: OpenAI-compatible audio. Conversations are gRPC's parley.v1.Voice."
    return whole("Parley", about, {"/healthz": HEALTHZ, **paths}, schemas, guarded=guarded)


def admin_document(*, guarded: bool) -> dict[str, Any]:
    """Of one gateway, or of all its workers together."""
    paths = {
        "/healthz": HEALTHZ,
        "/readyz": READYZ,
        "/admitz": ADMITZ,
        "/metrics": METRICS,
        "/drain": DRAIN,
        "/v1/sessions": page(
            "sessions",
            "The open sessions.",
            fields({"sessions": {"type": "array", "items": _SESSION}}),
            _500=answer("It failed.", ref("PageError")),
        ),
    }
    return whole(
        "Parley, for operators",
        "Health, readiness, metrics, sessions and the end of a gateway.",
        paths,
        {},
        guarded=guarded,
    )
