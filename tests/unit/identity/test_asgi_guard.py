"""The guard of HTTP, apart from any server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.identity import Identity, identity
from gateway.identity.asgi_guard import CALLER, RequireIdentity, admin_scope, public_scope
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.settings import AuthSettings


class App:
    def __init__(self) -> None:
        self.callers: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.callers.append(scope.get(CALLER))


class Line:
    """A client's body, and what it is answered."""

    def __init__(self, pieces: int = 0) -> None:
        self.left, self.read = pieces, 0
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        self.left -= 1
        self.read += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": self.left > 0}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def scope(kind: str, path: str, key: str = "") -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    return {"type": kind, "path": path, "method": "POST", "headers": headers, "query_string": b""}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/healthz", ""), ("/openapi.json", ""), ("/v1/models", "audio"), ("/v1/audio/speech", "audio"),
        ("/v1/realtime/client_secrets", "voice"), ("/v1/realtime", "voice"), ("/metrics", "audio"), ("/%2e", "audio"),
    ],
)  # fmt: skip
def test_what_the_public_listener_asks_for(path: str, wanted: str) -> None:
    assert public_scope(path) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/healthz", ""), ("/readyz", ""), ("/admitz", ""), ("/metrics", "metrics"), ("/metrics/", "admin"),
        ("//metrics", "admin"), ("/v1/sessions", "admin"), ("/drain", "admin"), ("/healthz/../drain", "admin"), ("", "admin"),
    ],
)  # fmt: skip
def test_what_an_operators_listener_asks_for(path: str, wanted: str) -> None:
    assert admin_scope(False)(path) == wanted
    assert admin_scope(True)(path) == ("" if wanted == "metrics" else wanted)


async def test_a_web_socket_is_no_way_around() -> None:
    app, line = App(), Line()
    guard = RequireIdentity(app, Identity(AuthSettings(api_keys=["good"])), public_scope)
    for key in ("", "bad"):
        await guard(scope("websocket", "/v1/audio/x", key), line.receive, line.send)
    assert app.callers == []
    assert [message["code"] for message in line.sent] == [1008, 1008]
    assert all(len(message["reason"].encode()) <= 123 for message in line.sent)
    await guard(scope("websocket", "/v1/audio/x", "good"), line.receive, line.send)
    assert [caller.name for caller in app.callers] == ["settings key 1"]


async def test_a_refused_client_is_not_read_for_ever() -> None:
    app, line = App(), Line(pieces=10_000)
    guard = RequireIdentity(app, Identity(AuthSettings(api_keys=["good"])), public_scope)
    await guard(scope("http", "/v1/audio/transcriptions", "bad"), line.receive, line.send)
    assert app.callers == []
    assert line.read * 65_536 <= 1 << 20
    assert line.sent[0]["status"] == 401


@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_whose_key_is_revoked_is_ended(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "LOOK_S", 0.02)
    file, key = tmp_path / "keys.yaml", new_key()
    record = KeyRecord("web", digest(key), ("audio",))
    file.write_text(write_keys([record]))
    inside, left = asyncio.Event(), asyncio.Event()

    async def slow(_: Scope, __: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    line = Line()
    guard = RequireIdentity(slow, Identity(AuthSettings(keys=file)), public_scope)
    async with asyncio.timeout(5):
        request = asyncio.create_task(guard(scope("http", "/v1/audio/speech", key), line.receive, line.send))
        await inside.wait()
        file.write_text(write_keys([replace(record, revoked=datetime.now(UTC))]))
        await request
    assert left.is_set()
    statuses = [message["status"] for message in line.sent if message["type"] == "http.response.start"]
    assert statuses == ([200] if begun else [401])
    assert all(
        "was revoked" in str(message["body"]) for message in line.sent if not begun and "body" in message
    )


async def test_a_request_that_is_cancelled_is_not_answered() -> None:
    inside = asyncio.Event()

    async def slow(_: Scope, __: Receive, ___: Send) -> None:
        inside.set()
        await asyncio.Event().wait()

    line = Line()
    guard = RequireIdentity(slow, Identity(AuthSettings(api_keys=["good"])), public_scope)
    request = asyncio.create_task(guard(scope("http", "/v1/audio/speech", "good"), line.receive, line.send))
    await inside.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert line.sent == []
