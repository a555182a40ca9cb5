"""Peers that break the rules, or keep to them only to do harm: told so, cut, and never at others' cost."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from gateway.http2 import replies
from gateway.http2.call import WINDOW, Call
from tests.support.h2_peer import Peer, bidi, data_frame, frame, peer, prefixed, serving

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 1, 3, 6, 11


async def said_to(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 2_000,
        bytes(100),
    ],
    ids=["http1", "tls", "preface", "frames", "zeros"],
)
async def test_what_is_no_http2_is_closed_at_once(raw: bytes) -> None:
    async with serving() as (server, port):
        await said_to(port, raw)
        async with peer(port) as client:
            assert await answered(client)
        assert not server._tasks


async def answered(client: Peer) -> bool:
    stream = client.open("Shout")
    await client.flush()
    await client.send(data_frame(stream, prefixed(b"a"), end=True))
    assert await client.status(stream) == (0, "")
    return client.received[stream] == prefixed(b"A")


def oversized(stream: int) -> bytes:
    return frame(0, 0, stream, bytes(16_385))


def padded_too_far(stream: int) -> bytes:
    return frame(0, 8, stream, b"\x05abcd")


def padded_without_a_length(stream: int) -> bytes:
    return frame(0, 8, stream)


def torn_headers(stream: int) -> bytes:
    return frame(1, 0, stream + 2, b"\x82") + data_frame(stream, b"x")


def ping_in_headers(stream: int) -> bytes:
    return frame(1, 0, stream + 2, b"\x82") + frame(6, 0, 0, bytes(8))


def credit_in_headers(stream: int) -> bytes:
    return frame(1, 0, stream + 2, b"\x82") + frame(8, 0, 0, bytes((0, 0, 0, 1)))


def goodbye_in_headers(stream: int) -> bytes:
    return frame(1, 0, stream + 2, b"\x82") + frame(7, 0, 0, bytes(8))


def no_credit(_stream: int) -> bytes:
    return frame(8, 0, 0, bytes(4))


def far_too_much_credit(_stream: int) -> bytes:
    return frame(8, 0, 0, struct.pack(">I", 2**31 - 1))


def far_too_much_credit_by_settings(stream: int) -> bytes:
    return frame(8, 0, stream, struct.pack(">I", 2**30)) + frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1))


def short_ping(_stream: int) -> bytes:
    return frame(6, 0, 0, bytes(7))


def data_on_the_connection(_stream: int) -> bytes:
    return data_frame(0, b"x")


def endless_header_block(stream: int) -> bytes:
    return frame(1, 0, stream + 2, bytes(16_000)) + frame(9, 0, stream + 2, bytes(16_000)) * 80


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (oversized, FRAME_SIZE_ERROR),
        (padded_too_far, PROTOCOL_ERROR),
        (padded_without_a_length, PROTOCOL_ERROR),
        (torn_headers, PROTOCOL_ERROR),
        (ping_in_headers, PROTOCOL_ERROR),
        (credit_in_headers, PROTOCOL_ERROR),
        (goodbye_in_headers, PROTOCOL_ERROR),
        (no_credit, PROTOCOL_ERROR),
        (far_too_much_credit, FLOW_CONTROL_ERROR),
        (far_too_much_credit_by_settings, FLOW_CONTROL_ERROR),
        (short_ping, FRAME_SIZE_ERROR),
        (data_on_the_connection, PROTOCOL_ERROR),
        (endless_header_block, PROTOCOL_ERROR),
    ],
)
async def test_a_broken_rule_ends_the_connection(make: Callable[[int], bytes], error: int) -> None:
    async with serving() as (server, port), peer(port) as client:
        stream = client.open("Echo")
        await client.flush()
        await client.send(make(stream))
        await client.until_closed()
        assert client.goaway == error
        async with peer(port) as other:
            assert await answered(other)
            assert not server._tasks, "its calls have ended"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda stream: data_frame(stream, bytes(16_384)) * 9, FLOW_CONTROL_ERROR),
        (lambda stream: frame(8, 0, stream, bytes(4)), PROTOCOL_ERROR),
        (lambda stream: frame(8, 0, stream, struct.pack(">I", 2**31 - 1)), FLOW_CONTROL_ERROR),
    ],
    ids=["beyond the window", "no credit", "too much credit"],
)
async def test_a_broken_rule_of_a_call_ends_the_call(make: Callable[[int], bytes], error: int) -> None:
    hold = asyncio.Event()
    ended = asyncio.Event()

    async def deaf(_requests: object, _call: Call) -> None:
        try:
            await hold.wait()
        finally:
            ended.set()

    async with serving({"Deaf": bidi(deaf)}) as (_, port), peer(port) as client:
        stream = client.open("Deaf")
        await client.flush()
        await client.ping()
        await client.send(make(stream))
        await client.until(lambda: stream in client.resets)
        assert client.resets == {stream: error}
        async with asyncio.timeout(10):
            await ended.wait()
        assert await answered(client), "the connection lives on"
        assert client.goaway is None


async def test_data_for_calls_that_are_over_leaves_the_connection_its_window() -> None:
    async with serving() as (_, port), peer(port) as client:
        stream = client.open("None")
        await client.flush()
        await client.status(stream)
        for _ in range(100):
            await client.send(data_frame(stream, bytes(16_384)))
            await client.ping()
        assert client.credit[0] > 16_384 * 100 + 2**20 - 65_535 - 65_535
        assert await answered(client)


async def test_a_call_with_large_headers_is_refused_and_the_others_of_its_connection_go_on() -> None:
    async with serving() as (server, port), peer(port) as client:
        good = client.open("Echo", ("large", "x" * 15_000))
        bad = [
            client.open("Echo", *((f"large-{n}", "x" * 5_000) for n in range(number)))
            for number in (4, 12, 24)
        ]
        await client.flush()
        for stream in bad:
            status, said = await client.status(stream)
            assert status == 8
            assert "16384 are allowed" in said
        await client.send(data_frame(good, prefixed(b"a"), end=True))
        assert await client.status(good) == (0, "")
        assert client.received[good] == prefixed(b"a")
        assert client.goaway is None
        assert not server._tasks


async def test_larger_ones_still_are_the_end_of_the_connection() -> None:
    async with serving() as (_, port), peer(port) as client:
        client.open("Echo", *((f"large-{n}", "x" * 5_000) for n in range(30)))
        await client.flush()
        await client.until_closed()
        assert client.goaway == ENHANCE_YOUR_CALM


async def test_calls_begun_only_to_be_reset() -> None:
    async with serving() as (server, port), peer(port) as client:
        for _ in range(500):
            client.rules.reset_stream(client.open("Echo"))
        await client.flush()
        await client.until_closed()
        assert client.goaway == ENHANCE_YOUR_CALM
        assert not server._tasks


async def test_calls_begun_only_to_be_broken_off_by_us() -> None:
    async with serving() as (_, port), peer(port) as client:
        raw = b""
        for _ in range(500):
            stream = client.open("Echo")
            raw += client.rules.data_to_send() + frame(8, 0, stream, bytes(4))
        await client.send(raw)
        await client.until_closed()
        assert client.goaway == ENHANCE_YOUR_CALM


async def test_calls_that_end_after_a_while_are_not_held_against_a_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.http2.connection._YOUNG_S", -1.0)
    async with serving() as (_, port), peer(port) as client:
        for _ in range(500):
            client.rules.reset_stream(client.open("Echo"))
        await client.flush()
        assert await answered(client)
        assert client.goaway is None


FLOOD = 64 * 1024


@pytest.mark.parametrize("flood", ["pings", "settings", "unknown methods"])
async def test_a_peer_that_makes_us_answer_and_reads_nothing_is_cut(
    flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_FLOOD_BYTES", FLOOD)
    monkeypatch.setattr("gateway.http2.connection._UNSENT_BYTES", FLOOD // 4)
    most, cut = 0, False
    async with serving() as (server, port), peer(port) as client:
        (connection,) = server._connections
        transport = connection._transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        client.keeps_little()
        for turn in range(400):
            if flood == "pings":
                raw = frame(6, 0, 0, bytes(8)) * 1_000
            elif flood == "settings":
                raw = frame(4, 0, 0) * 1_000
            else:
                for number in range(20):
                    client.open(f"None-{turn}-{number}" * 40, end=True)  # the answer names it
                raw = client.rules.data_to_send()
                client.rules.streams.clear()
            try:
                await client.send(raw)
            except ConnectionError:
                cut = True
                break
            most = max(most, transport.get_write_buffer_size() if connection in server._connections else 0)
        assert cut
        assert most < 3 * FLOOD
        async with peer(port) as other:
            assert await answered(other)


async def test_a_client_that_vanishes_ends_its_calls() -> None:
    ended = asyncio.Event()

    async def waits(_requests: object, call: Call) -> None:
        try:
            await call.read()
        finally:
            ended.set()

    async with serving({"Wait": bidi(waits)}) as (server, port), peer(port) as client:
        client.open("Wait")
        await client.flush()
        await client.ping()
        tasks = list(server._tasks)
        assert len(tasks) == 1
        client.vanish()
        async with asyncio.timeout(10):
            await ended.wait()
            await asyncio.wait(tasks)
        assert not server._tasks
        assert not server._connections


@pytest.mark.parametrize(
    ("method", "content", "status"),
    [
        ("GET", "application/grpc", "405"),
        ("POST", "text/html", "415"),
        ("POST", "application/grpc-web", "415"),
    ],
)
async def test_a_request_that_is_no_grpc_is_told_what_this_is(method: str, content: str, status: str) -> None:
    async with serving() as (_, port), peer(port) as client:
        stream = client.open("Echo", (":method", method), ("content-type", content))
        await client.flush()
        await client.send(data_frame(stream, bytes(16_384)) * 8)
        await client.until(lambda: client.credit[stream] >= WINDOW)
        await client.send(data_frame(stream, b"", end=True))
        await client.until(lambda: b"gRPC" in client.received[stream])
        assert client.headers[stream][":status"] == status
        assert await answered(client)
