"""Start, stop, idle connections, and peers that have gone without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import grpc
import pytest

from gateway.http2.call import Call
from gateway.http2.server import GrpcServer
from tests.support.h2_peer import bidi, data_frame, peer, prefixed, serving


async def test_stop_lets_open_calls_finish_and_refuses_new_ones() -> None:
    async with serving() as (server, port), peer(port) as client, peer(port) as idle:
        stream = client.open("Join")
        await client.flush()
        await client.ping()
        stopping = asyncio.create_task(server.stop(10))
        await client.until(lambda: client.goaway == 0)
        await idle.until_closed()
        assert idle.goaway == 0
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        raw = data_frame(stream, prefixed(b"last words"), end=True)
        await client.send(raw)
        await client.until_closed()
        assert client.received[stream] == prefixed(b"last words")
        assert client.trailers[stream]["grpc-status"] == "0", "the status left before the connection closed"
        await stopping


async def test_a_call_that_comes_after_goaway_is_refused_unheard() -> None:
    async with serving() as (server, port), peer(port) as client:
        stream = client.open("Join")
        await client.flush()
        await client.ping()
        late = client.open("Join")  # on its way while the server says goodbye
        second = client.rules.data_to_send()
        stopping = asyncio.create_task(server.stop(10))
        await client.until(lambda: client.goaway == 0)
        await client.send(second)
        await client.until(lambda: late in client.resets)
        assert client.resets[late] == 7
        await client.send(data_frame(stream, prefixed(b"x"), end=True))
        await client.until_closed()
        assert client.trailers[stream]["grpc-status"] == "0"
        await stopping


async def test_calls_beyond_the_grace_get_unavailable() -> None:
    async with serving() as (server, port), peer(port) as client:
        stream = client.open("Join")
        await client.flush()
        await client.ping()
        stopping = asyncio.create_task(server.stop(0.05))
        await client.until_closed()
        assert client.trailers[stream]["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
        assert client.trailers[stream]["grpc-message"] == "the server is shutting down"
        await stopping


async def test_a_handler_that_clings_does_not_hold_up_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http2.server._STATUS_S", 0.05)
    monkeypatch.setattr("gateway.http2.server._CUT_S", 0.05)
    let_go = asyncio.Event()

    async def clings(_requests: object, _call: Call) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with serving({"Cling": bidi(clings)}) as (server, port), peer(port) as client:
        client.open("Cling")
        await client.flush()
        await client.ping()
        tasks = list(server._tasks)
        async with asyncio.timeout(5):
            await server.stop(0)
            await client.until_closed()
        let_go.set()
        await asyncio.wait(tasks)


async def test_an_idle_connection_is_closed_and_one_with_a_call_is_not() -> None:
    async with serving(idle_s=0.05) as (_, port), peer(port) as busy, peer(port) as idle:
        stream = busy.open("Join")
        await busy.flush()
        await idle.until_closed()
        assert idle.goaway == 0
        await busy.ping()
        assert busy.goaway is None
        await busy.send(data_frame(stream, prefixed(b"x"), end=True))
        await busy.until_closed()
        assert busy.trailers[stream]["grpc-status"] == "0"
        assert busy.goaway == 0


def sweep(server: GrpcServer) -> None:
    assert server._sweeper is not None
    server._sweeper.cancel()
    server._sweep()


async def test_a_silent_peer_is_asked_and_then_cut() -> None:
    async with serving() as (server, port), peer(port) as silent, peer(port) as alive:
        assert len(server._connections) == 2
        for turn in range(1, 8):
            sweep(server)
            if turn % 2:
                await alive.ping()
        await silent.until_closed()
        assert any("PingReceived" in repr(event) for event in silent.events)
        await alive.ping()
        assert len(server._connections) == 1


async def test_a_peer_that_answers_the_ping_stays() -> None:
    async with serving() as (server, port), peer(port) as client:
        for _ in range(20):
            sweep(server)
            if any(silent == 4 for silent in server._connections.values()):
                client.events.clear()
                await client.until(lambda: any("PingReceived" in repr(e) for e in client.events))
                await client.ping()
        await client.ping()
        assert len(server._connections) == 1


async def test_who_never_says_hello_is_cut() -> None:
    async with serving() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            await reader.read(9)
            for _ in range(3):
                sweep(server)
            with contextlib.suppress(ConnectionError):
                while await reader.read(100):
                    pass
        assert not server._connections
        writer.close()


async def test_an_address_that_is_taken_and_a_shared_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = GrpcServer(max_message_bytes=1_000, max_calls=1)
        with pytest.raises(OSError, match="use"):
            await server.start("127.0.0.1", taken.getsockname()[1])
        await server.stop(0)
    one, two = (GrpcServer(max_message_bytes=1_000, max_calls=1, shared_port=True) for _ in range(2))
    port = await one.start("127.0.0.1", 0)
    assert await two.start("127.0.0.1", port) == port
    await one.stop(0)
    await two.stop(0)
