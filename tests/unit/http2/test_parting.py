"""A connection's end: what was written arrives, whatever the peer still says, and no peer holds it open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from gateway.http2 import parting
from gateway.http2.connection import Connection
from gateway.http2.frames import PREFACE
from gateway.http2.parting import LINGER_S, Parting
from gateway.http2.server import GrpcServer
from tests.support.h2_peer import frame, peer, serving
from tests.support.virtual_time import run_virtual, settle

TRIES = 50
GREETING = PREFACE + frame(4, 0, 0)
GOODBYE = frame(7, 0, 0, bytes(4) + (0xFF).to_bytes(4, "big"))
PING, PONG = frame(6, 0, 0, b"are you "), frame(6, 1, 0, b"are you ")
CALL = frame(1, 4, 1, bytes.fromhex("8386 45 0a") + b"/test/Echo" + bytes.fromhex("41 01") + b"t")
SWORN, NO_ERROR, PROTOCOL_ERROR = frame(6, 0, 1, bytes(8)), 0, 1


class RawPeer:
    """Reads only when told to: what lies unread is what a reset takes away."""

    def __init__(self) -> None:
        self._sock = socket.socket()
        self._sock.setblocking(False)

    async def __aenter__(self) -> RawPeer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def greet(self, port: int, more: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_connect(self._sock, ("127.0.0.1", port))
        await self.send(GREETING + more)
        await settle()

    async def send(self, raw: bytes) -> None:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(self._sock, raw)

    async def sent_until_cut(self, raw: bytes, most: int) -> int:
        """The bytes sent, again and again; `most` when nothing stopped it."""
        for sent in range(0, most, len(raw)):
            try:
                await self.send(raw)
            except ConnectionError:
                return sent
            await settle(5)
        return most

    async def rest(self) -> bytes:
        """Until a clean end. Raises ConnectionError."""
        found = b""
        async with asyncio.timeout(10):
            while more := await asyncio.get_running_loop().sock_recv(self._sock, 65_536):
                found += more
        return found


def goaway(error: int) -> bytes:
    return frame(7, 0, 0, bytes(4) + error.to_bytes(4, "big"))


def nobody(_server: GrpcServer) -> None: ...


def the_server(server: GrpcServer) -> None:
    for connection in server._connections:
        connection.refuse_calls()


@pytest.mark.parametrize(
    ("last_words", "ends", "error"),
    [(GOODBYE, nobody, NO_ERROR), (b"", the_server, NO_ERROR), (SWORN, nobody, PROTOCOL_ERROR)],
    ids=["the client's goodbye", "the server's goodbye", "a broken rule"],
)
async def test_who_still_speaks_after_the_end_sees_all_and_a_clean_end(
    last_words: bytes, ends: Callable[[GrpcServer], None], error: int
) -> None:
    async with serving() as (server, port):
        for _ in range(TRIES):
            async with RawPeer() as client:
                await client.greet(port, last_words)
                ends(server)
                await settle()
                await client.send(PING)
                await settle()
                await client.send(PING)
                await settle()
                said = await client.rest()
                assert said[3] == 4, "its settings"
                assert said.endswith(goaway(error))


async def test_a_ping_that_comes_with_the_goodbye_is_answered_and_a_call_is_not_begun() -> None:
    async with serving() as (server, port), RawPeer() as client:
        await client.greet(port, GOODBYE + PING + CALL + PING)
        said = await client.rest()
        refused = frame(3, 0, 1, (7).to_bytes(4, "big"))
        assert said.endswith(PONG + refused + PONG + frame(7, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        assert not server._tasks


async def test_a_ping_that_comes_with_the_end_of_the_last_call_is_answered() -> None:
    async with serving() as (_, port), RawPeer() as client:
        await client.greet(port, CALL + GOODBYE)
        await client.send(frame(3, 0, 1, (8).to_bytes(4, "big")) + PING)
        said = await client.rest()
        assert said.endswith(PONG + frame(7, 0, 0, (1).to_bytes(4, "big") + bytes(4)))


async def test_a_peer_that_never_closes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "LINGER_S", 0.02)
    async with serving() as (server, port), RawPeer() as client:
        await client.greet(port, GOODBYE)
        assert (await client.rest()).endswith(goaway(NO_ERROR))
        async with asyncio.timeout(10):
            await server._all_left.wait()
        assert await client.sent_until_cut(PING, 1_000) < 1_000


async def test_a_peer_that_floods_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 256 * 1024
    monkeypatch.setattr(parting, "_MOST_UNHEARD_BYTES", most)
    async with serving() as (server, port), RawPeer() as client:
        await client.greet(port, GOODBYE)
        assert most < await client.sent_until_cut(PING * 1_000, 100 * most) < 3 * most
        assert not server._connections


async def test_the_time_to_leave_begins_when_all_has_been_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "LINGER_S", 0.02)
    async with serving() as (server, port), RawPeer() as client:
        await client.greet(port)
        (connection,) = server._connections
        assert connection._transport is not None
        written = bytes(16 * 1024 * 1024)  # more than the kernel takes
        connection._transport.write(written)
        connection.close()
        await settle()
        assert connection._parting is not None
        assert connection._parting._timer is None, "a reader that is slow is not cut"
        assert len(await client.rest()) > len(written)
        async with asyncio.timeout(10):
            await server._all_left.wait()


async def test_stop_waits_for_no_peer_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http2.server.LINGER_S", 60.0)
    monkeypatch.setattr("gateway.http2.server._STATUS_S", 60.0)
    async with serving() as (server, port), peer(port) as client, asyncio.timeout(10):
        reading = asyncio.create_task(client.until_closed())
        await server.stop(0)
        await reading
        assert client.goaway == NO_ERROR
        assert not server._connections


async def test_stop_does_not_wait_long_for_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http2.server.LINGER_S", 0.02)
    monkeypatch.setattr(parting, "LINGER_S", 60.0)
    async with serving() as (server, port), RawPeer() as client, asyncio.timeout(10):
        await client.greet(port)
        (connection,) = server._connections
        await server.stop(0)
        assert not server._connections
        assert connection._parting is not None
        timer = connection._parting._timer
        assert timer is not None
        assert timer.cancelled()
        assert (await client.rest()).endswith(goaway(NO_ERROR))


# ---- in virtual time -----------------------------------------------------------------------------------


class Line(asyncio.Transport):
    """A transport on which `unsent` bytes wait."""

    def __init__(self, unsent: int = 0, *, half: bool = True, reset: bool = False) -> None:
        super().__init__()
        self.unsent, self._half, self._reset = unsent, half, reset
        self.done: list[str] = []

    def can_write_eof(self) -> bool:
        return self._half

    def write_eof(self) -> None:
        if self._reset:
            raise OSError("the peer is gone")
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("cut")

    def is_closing(self) -> bool:
        return bool({"closed", "cut"} & set(self.done))

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Alone:
    """What a connection needs of its server."""

    max_message_bytes, max_calls = 10_000, 100

    def joined(self, connection: object) -> None: ...

    begin = quiet = left = joined


def test_a_peer_gets_its_time_after_the_last_byte_and_no_more() -> None:
    async def scenario() -> None:
        line = Line(unsent=10)
        connection = Connection(Alone())
        connection.connection_made(line)
        connection.data_received(GREETING + GOODBYE)
        assert line.done == ["eof"]
        await asyncio.sleep(100)
        assert line.done == ["eof"]
        line.unsent = 0
        connection.resume_writing()
        await asyncio.sleep(LINGER_S - 0.01)
        connection.data_received(PING)
        assert line.done == ["eof"]
        await asyncio.sleep(0.02)
        assert line.done == ["eof", "cut"]

    run_virtual(scenario())


def test_nothing_is_left_of_a_connection_that_is_lost() -> None:
    async def scenario() -> None:
        line = Line()
        connection = Connection(Alone())
        connection.connection_made(line)
        connection.refuse_calls()
        connection.connection_lost(None)
        await asyncio.sleep(100)
        assert line.done == ["eof"]
        connection.ping()
        connection.close()
        assert line.done == ["eof"]

    run_virtual(scenario())


def test_a_line_that_cannot_be_half_closed_is_closed() -> None:
    line = Line(half=False)
    Parting(line)
    assert line.done == ["closed"]


def test_a_line_that_the_peer_has_reset_is_cut() -> None:
    line = Line(reset=True)
    Parting(line)
    assert line.done == ["cut"]


def test_a_line_that_is_closed_already_is_left_alone() -> None:
    line = Line()
    line.close()
    Parting(line)
    assert line.done == ["closed"]
