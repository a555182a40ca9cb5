"""uvicorn inside a running loop."""

from __future__ import annotations

import asyncio
import signal

import pytest
from starlette.types import Receive, Scope, Send

from gateway.telemetry import http_server
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


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


async def test_a_head_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_S", 0.3)
    server = serve_http(App(), "127.0.0.1", 0)
    port = await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _all_of(reader) == b""
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = asyncio.create_task(_all_of(reader))
        writer.write(b"GET / HTTP/1.1\r\n")
        while not heard.done():  # a word now and then does not help
            writer.write(b"x-a: b\r\n")
            await asyncio.wait({heard}, timeout=0.05)
        assert heard.result().startswith(b"HTTP/1.1 408 ")
        assert b"its head took longer than 0.3 s" in heard.result()
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /again HTTP")
        assert b" 408 " in await _all_of(reader)
        writer.close()
    finally:
        await server.stop()


async def test_what_follows_a_head_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer, and a connection that rests between requests, are cut by no deadline of heads."""
    monkeypatch.setattr(http_server, "HEAD_S", 0.2)
    app = App()
    server = serve_http(app, "127.0.0.1", 0)
    port = await server.start()
    try:
        slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
        resting, resting_writer = await asyncio.open_connection("127.0.0.1", port)
        slow_writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        resting_writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await resting.readuntil(b"ok")
        ends = [asyncio.create_task(reader.read(1)) for reader in (slow, resting)]
        done, _ = await asyncio.wait(ends, timeout=0.6)
        assert not done
        assert not app.cancelled.is_set()
        for end in ends:
            end.cancel()
        slow_writer.close()
        resting_writer.close()
    finally:
        await server.stop()
