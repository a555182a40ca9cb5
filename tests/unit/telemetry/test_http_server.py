"""uvicorn inside a running loop."""

from __future__ import annotations

import asyncio
import signal

import pytest
from starlette.types import Receive, Scope, Send

from gateway.telemetry.http_server import serve_http
from tests.support.raw_http import request


class App:
    """Answers `ok`, or at /slow not before it is cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def test_start_answer_stop() -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    before = asyncio.all_tasks()
    server = serve_http(App(), "127.0.0.1", 0)
    port = await server.start()
    assert port > 0
    assert (await request(port, "GET", "/"))[2] == "ok"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    await server.stop()
    with pytest.raises(OSError):  # noqa: PT011  (refused or reset, as the system likes)
        await request(port, "GET", "/")
    await server.stop()
    assert asyncio.all_tasks() == before


async def test_a_taken_port_is_an_os_error() -> None:
    first = serve_http(App(), "127.0.0.1", 0)
    port = await first.start()
    second = serve_http(App(), "127.0.0.1", port)
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await second.stop()
    await first.stop()


async def test_stop_cancels_what_does_not_end() -> None:
    app = App()
    server = serve_http(app, "127.0.0.1", 0)
    port = await server.start()
    asking = asyncio.create_task(request(port, "GET", "/slow"))
    await app.entered.wait()
    async with asyncio.timeout(5):
        await server.stop()
    assert app.cancelled.is_set()
    await asyncio.gather(asking, return_exceptions=True)


async def test_stop_does_not_wait_for_idle_connections() -> None:
    server = serve_http(App(), "127.0.0.1", 0)
    port = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"ok")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await server.stop()
    assert loop.time() - began < 0.9
    assert await reader.read() == b""
    writer.close()
