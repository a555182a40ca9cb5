"""Streaming calls over our own HTTP/2, against grpc's server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.http2.client import StreamChannel, speaks_plainly
from gateway.http2.client_call import StreamCall

METHOD = "/parley.test.Echo/Stream"
Handler = Callable[[AsyncIterator[bytes], Any], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(handler: Handler, **options: int) -> AsyncIterator[tuple[grpc.aio.Server, StreamChannel]]:
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), *((f"grpc.{k}", v) for k, v in options.items())]
    )
    method: Any = grpc.stream_stream_rpc_method_handler(handler)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("parley.test.Echo", {"Stream": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = made(f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(10):
            yield server, channel
    finally:
        await channel.close()
        await server.stop(None)


def made(address: str) -> StreamChannel:
    return StreamChannel(address, grpc.aio.insecure_channel(address))


def call_of(channel: StreamChannel, **options: Any) -> StreamCall:
    return channel.stream_stream(METHOD, bytes, bytes)(**options)


async def echo(requests: AsyncIterator[bytes], context: Any) -> None:
    async for request in requests:
        await context.write(request)


async def rest_of(call: StreamCall) -> list[bytes]:
    found = []
    while (message := await call.read()) is not grpc.aio.EOF:
        found.append(message)
    return found


async def said_by(call: StreamCall, *messages: bytes) -> list[bytes]:
    async def write() -> None:
        for message in messages:
            await call.write(message)
        await call.done_writing()

    writing = asyncio.create_task(write())
    found = await rest_of(call)
    await writing
    return found


@pytest.mark.parametrize("size", [0, 1, 5_000, 16_379, 16_380, 70_000, 3_000_000])
async def test_messages_of_any_size_go_both_ways_in_order(size: int) -> None:
    async with served(echo) as (_, channel):
        messages = [bytes([number]) * size for number in range(4)]
        assert await said_by(call_of(channel), *messages) == messages


async def test_many_calls_share_a_connection() -> None:
    async with served(echo) as (_, channel):
        texts = [f"call {number}".encode() for number in range(150)]
        answers = await asyncio.gather(*(said_by(call_of(channel), text, text) for text in texts))
        assert answers == [[text, text] for text in texts]
        assert len(channel._connections) <= 2


async def test_a_server_that_takes_few_calls_at_once_is_dialled_again() -> None:
    async with served(echo, max_concurrent_streams=3) as (_, channel):
        first = call_of(channel)
        await first.write(b"x")
        assert await first.read() == b"x"  # its settings are known from here on
        others = [call_of(channel) for _ in range(7)]
        for call in others:
            await call.write(b"y")
        assert [await call.read() for call in others] == [b"y"] * 7
        assert len(channel._connections) == 3


async def test_what_the_server_says_of_the_end_is_raised() -> None:
    async def refuse(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(b"so far")
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu viel für 100 %")

    async with served(refuse) as (_, channel):
        call = call_of(channel)
        assert await call.read() == b"so far"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "zu viel für 100 %"
        assert call.done()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"more")


async def test_an_unknown_method_is_unimplemented() -> None:
    async with served(echo) as (_, channel):
        call = channel.stream_stream("/parley.test.Echo/Other", bytes, bytes)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_reach_the_server() -> None:
    async def tell(requests: AsyncIterator[bytes], context: Any) -> None:
        found = dict(context.invocation_metadata())
        await context.write(f"{found['authorization']} {found['raw-bin']!r}".encode())

    async with served(tell) as (_, channel):
        call = call_of(channel, metadata=[("Authorization", "Bearer k"), ("raw-bin", b"\x00\xff")])
        assert await call.read() == rb"Bearer k b'\x00\xff'"


async def test_cancelling_is_seen_by_the_server_and_by_the_reader() -> None:
    gone = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            await context.write(b"here")
            await asyncio.Event().wait()
        finally:
            gone.set()

    async with served(wait) as (_, channel):
        call = call_of(channel)
        assert await call.read() == b"here"
        reading = asyncio.create_task(call.read())
        await asyncio.sleep(0)
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await gone.wait()
        other = call_of(channel)
        assert await other.read() == b"here", "the connection lives on"


async def test_a_reader_that_is_cancelled_leaves_the_call_alone() -> None:
    async with served(echo) as (_, channel):
        call = call_of(channel)
        reading = asyncio.create_task(call.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await said_by(call, b"still there") == [b"still there"]


async def test_who_does_not_read_holds_the_server_back() -> None:
    written = 0

    async def pour(requests: AsyncIterator[bytes], context: Any) -> None:
        nonlocal written
        for _ in range(200):
            await context.write(bytes(50_000))
            written += 1

    async with served(pour) as (_, channel):
        call = call_of(channel)
        assert len(await call.read()) == 50_000
        before = -1
        while written != before:  # until it does not get any further
            before = written
            await asyncio.sleep(0.05)
        assert written < 60
        assert len(await rest_of(call)) == 199


async def test_a_server_that_stops_lets_open_calls_end_and_later_ones_find_nobody() -> None:
    async with served(echo) as (server, channel):
        call = call_of(channel)
        await call.write(b"a")
        assert await call.read() == b"a"
        stopping = asyncio.create_task(server.stop(5))
        await asyncio.sleep(0.05)
        assert await said_by(call, b"b") == [b"b"]
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_of(channel).read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64])
async def test_whoever_is_no_grpc_server_is_unavailable(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = made(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with asyncio.timeout(5):
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call_of(channel).read()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await channel.close()
        server.close()


async def test_closing_the_channel_cancels_what_runs_and_what_waits() -> None:
    mute = socket.create_server(("127.0.0.1", 0))
    with mute:
        await _close_both(f"127.0.0.1:{mute.getsockname()[1]}")


async def _close_both(mute: str) -> None:
    async with served(echo) as (_, channel):
        open_one, waiting = call_of(channel), made(mute)
        await open_one.write(b"x")
        readers = [asyncio.create_task(call.read()) for call in (call_of(channel), call_of(waiting))]
        await asyncio.sleep(0.01)
        await channel.close()
        await waiting.close()
        done, _ = await asyncio.wait(readers, timeout=2)
        assert all(reader.cancelled() for reader in readers), done


def test_only_plain_addresses_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert speaks_plainly("riva:50051")
    assert speaks_plainly("[::1]:50051")
    assert not speaks_plainly("unix:/run/riva")
    assert not speaks_plainly("dns:///riva:50051")
    assert not speaks_plainly("riva")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert speaks_plainly("127.0.0.1:50051")
    assert not speaks_plainly("riva:50051")


def test_a_connection_that_lives_long_forgets_its_old_streams() -> None:
    from gateway.http2.client_connection import _rules

    remembered = _rules()._closed_streams
    for stream in range(1, 4_001, 2):
        remembered[stream] = None
    assert len(remembered) <= 1_000
