"""The guard of HTTP, apart from any server."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.identity import Identity
from gateway.identity.asgi_guard import CALLER, RequireIdentity, admin_scope, public_scope
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
