"""Peers that keep to HTTP/2 in unusual ways: nothing is lost, and no window leaks or grows."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http2.call import WINDOW, Call
from gateway.http2.connection import Connection
from tests.support.h2_peer import Peer, bidi, data_frame, frame, peer, prefixed, serving


async def test_a_preface_in_single_bytes_and_data_of_one_byte_each() -> None:
    async with serving() as (_, port), peer(port, greet=False) as client:
        client.rules.initiate_connection()
        stream = client.open("Join")
        raw = client.rules.data_to_send()
        raw += b"".join(data_frame(stream, bytes((byte,))) for byte in prefixed(b"hello") + prefixed(b"you"))
        for byte in raw + data_frame(stream, b"", end=True):
            await client.send(bytes((byte,)))
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == prefixed(b"helloyou")


async def test_padding_gives_its_credit_back_exactly() -> None:
    """1 MB, of which nearly all is padding, in one call; and then the whole window once more."""
    async with serving() as (server, port), peer(port) as client:
        stream = client.open("Join")
        await client.flush()
        message = prefixed(bytes(range(256)) * 16)
        sent, window = 0, WINDOW
        for at in range(len(message)):
            padded = data_frame(stream, message[at : at + 1], padding=255)
            window -= 257
            sent += 257
            await client.send(padded)
            if window < 600:
                seen = client.credit[stream]
                await client.until(moved(client, stream, seen))
                window += client.credit[stream] - seen
        assert sent > 1_000_000
        await client.ping()
        (call,) = server._tasks.values()
        assert call.receive_window == WINDOW - sent + client.credit[stream]
        assert call.receive_window >= WINDOW // 2
        await client.send(data_frame(stream, b"", end=True))
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == message


async def test_padding_alone_gets_credit_as_well() -> None:
    async with serving() as (_, port), peer(port) as client:
        stream = client.open("Join")
        await client.flush()
        await client.send(data_frame(stream, b"", padding=255) * (WINDOW // 256))
        await client.until(lambda: client.credit[stream] > WINDOW // 2)


def moved(client: Peer, stream: int, seen: int) -> Callable[[], bool]:
    return lambda: client.credit[stream] > seen


async def send_all(client: Peer, stream: int, raw: bytes, sent: int = 0) -> None:
    """As fast as the stream's window allows."""

    def room() -> int:
        return WINDOW + client.credit[stream] - sent

    while sent < len(raw):
        await client.until(lambda: room() > 0)
        size = min(16_384, room(), len(raw) - sent)
        await client.send(data_frame(stream, raw[sent : sent + size]))
        sent += size
    await client.send(data_frame(stream, b"", end=True))


async def test_a_large_message_behind_a_small_one_that_waits() -> None:
    """The window is full before the small one is read; nobody else would give credit."""
    go = asyncio.Event()

    async def late(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        await go.wait()
        async for message in requests:
            yield struct.pack(">I", len(message))

    async with serving({"Late": bidi(late)}) as (_, port), peer(port) as client:
        stream = client.open("Late")
        await client.flush()
        raw = prefixed(b"small") + prefixed(bytes(300_000))
        await client.send(
            b"".join(data_frame(stream, raw[at : at + 16_384]) for at in range(0, WINDOW, 16_384))
        )
        await client.ping()
        assert stream not in client.credit
        go.set()
        await send_all(client, stream, raw, WINDOW)
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == prefixed(struct.pack(">I", 5)) + prefixed(
            struct.pack(">I", 300_000)
        )


async def test_a_promised_length_is_held_to_and_costs_no_window() -> None:
    async with serving() as (_, port), peer(port) as client:
        raw = prefixed(b"a" * 400_000)
        stream = client.open("Join", ("content-length", str(len(raw))))
        await client.flush()
        await send_all(client, stream, raw)
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == raw

        for promised in (3, 100):
            async with peer(port) as liar:
                stream = liar.open("Join", ("content-length", str(promised)))
                await liar.flush()
                await liar.send(data_frame(stream, prefixed(b"hello"), end=True))
                await liar.until_closed()
                assert liar.goaway == 1


async def test_an_unread_call_with_a_promised_length_meets_its_own_window() -> None:
    hold = asyncio.Event()

    async def deaf(_requests: object, _call: Call) -> None:
        await hold.wait()

    async with serving({"Deaf": bidi(deaf)}) as (_, port), peer(port) as client:
        for _ in range(12):
            stream = client.open("Deaf", ("content-length", "1000000"))
            await client.flush()
            await client.send(data_frame(stream, bytes(16_384)) * (WINDOW // 16_384))
        await client.ping()
        assert client.goaway is None
        await client.send(data_frame(stream, b"x"))
        await client.until(lambda: stream in client.resets)
        assert client.resets == {stream: 3}
        hold.set()


class Pouring:
    """Writes numbered messages as fast as they are taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.written = 0

    async def __call__(self, _requests: object, call: Call) -> None:
        for number in range(self.count):
            await call.write(struct.pack(">I", number) * 250)
            self.written += 1


def poured(count: int) -> bytes:
    return b"".join(prefixed(struct.pack(">I", number) * 250) for number in range(count))


async def test_a_peer_that_gives_no_credit_is_written_no_more_than_its_window() -> None:
    pouring = Pouring(500)
    async with serving({"Pour": bidi(pouring)}) as (server, port), peer(port) as client:
        client.gives_credit = False
        stream = client.open("Pour")
        await client.flush()
        await client.until(lambda: len(client.received[stream]) == 65_535)
        await client.ping()
        (call,) = server._tasks.values()
        assert 0 < len(call.queued) <= 1_005
        assert pouring.written == 65_535 // 1_005
        client.gives_credit = True
        client.rules.increment_flow_control_window(2**20)
        client.rules.increment_flow_control_window(2**20, stream)
        await client.flush()
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == poured(500)


async def test_the_window_changes_during_a_call_below_zero_and_up() -> None:
    pouring = Pouring(500)
    async with serving({"Pour": bidi(pouring)}) as (server, port), peer(port) as client:
        client.gives_credit = False
        stream = client.open("Pour")
        await client.flush()
        await client.until(lambda: len(client.received[stream]) == 65_535)
        for window in (0, 1, 0, 30_000):
            client.rules.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
            await client.flush()
        client.rules.increment_flow_control_window(2**20)
        await client.flush()
        await client.ping()
        (call,) = server._tasks.values()
        assert call.send_window == 30_000 - 65_535
        assert len(client.received[stream]) == 65_535
        client.rules.increment_flow_control_window(36_535, stream)  # to 1,000 above zero
        await client.flush()
        await client.until(lambda: len(client.received[stream]) == 66_535)
        client.rules.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
        await client.flush()
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == poured(500)


async def test_a_status_behind_messages_that_nobody_reads_ends_in_a_reset() -> None:
    async def leaves(_requests: object, call: Call) -> None:
        try:
            async with asyncio.timeout(0.05):
                await call.write(bytes(100_000))
        except TimeoutError:
            await call.abort(grpc.StatusCode.ABORTED, "too slow")

    async with serving({"Leave": bidi(leaves)}) as (_, port), peer(port) as client:
        client.gives_credit = False
        stream = client.open("Leave")
        await client.flush()
        began = asyncio.get_running_loop().time()
        await client.until(lambda: stream in client.resets)
        assert client.resets[stream] == 8
        assert asyncio.get_running_loop().time() - began < 5


async def test_goaway_of_the_client_lets_its_calls_finish() -> None:
    async with serving() as (_, port), peer(port) as client:
        stream = client.open("Join")
        await client.flush()
        await client.send(frame(7, 0, 0, bytes(8)))
        await client.send(data_frame(stream, prefixed(b"done"), end=True))
        await client.until_closed()
        assert client.received[stream] == prefixed(b"done")
        assert client.trailers[stream]["grpc-status"] == "0"


async def test_a_deadline_in_the_headers_ends_the_call() -> None:
    async with serving() as (_, port), peer(port) as client:
        stream = client.open("Join", ("grpc-timeout", "50m"))
        await client.flush()
        assert (await client.status(stream))[0] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        stream = client.open("Join", ("grpc-timeout", "soon"))
        await client.flush()
        status, details = await client.status(stream)
        assert status == grpc.StatusCode.INTERNAL.value[0]
        assert "grpc-timeout" in details


async def test_input_that_is_no_grpc_ends_the_call_alone() -> None:
    async with serving() as (server, port), peer(port) as client:
        for raw, words in (
            (b"\x07nonsense", "neither 0 nor 1"),
            (prefixed(b"whole")[:-1], "in the middle"),
            (prefixed(b"packed", 1), "grpc-encoding"),
        ):
            stream = client.open("Join")
            await client.flush()
            await client.send(data_frame(stream, raw, end=True))
            status, details = await client.status(stream)
            assert status == grpc.StatusCode.INTERNAL.value[0]
            assert words in details
        stream = client.open("Join", ("grpc-encoding", "gzip"))
        await client.flush()
        await client.send(data_frame(stream, prefixed(b"not gzip", 1), end=True))
        assert "cannot be unpacked" in (await client.status(stream))[1]
        stream = client.open("Join", ("grpc-encoding", "snappy"))
        await client.flush()
        assert (await client.status(stream))[0] == grpc.StatusCode.UNIMPLEMENTED.value[0]
        assert client.goaway is None
        await client.ping()
        assert not server._tasks


async def test_packed_messages_that_wait_stay_packed() -> None:
    hold = asyncio.Event()

    async def late(requests: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        await hold.wait()
        async for message in requests:
            yield struct.pack(">I", len(message))

    async with serving({"Late": bidi(late)}) as (server, port), peer(port) as client:
        stream = client.open("Late", ("grpc-encoding", "gzip"))
        await client.flush()
        bomb = prefixed(gzip.compress(bytes(1_000_000)), 1)
        await client.send(data_frame(stream, bomb) * 50)
        await client.ping()
        (call,) = server._tasks.values()
        assert sum(map(len, call._inbox)) < WINDOW
        hold.set()
        await client.send(data_frame(stream, b"", end=True))
        assert await client.status(stream) == (0, "")
        assert client.received[stream] == prefixed(struct.pack(">I", 1_000_000)) * 50


# ---- any frames, cut anywhere --------------------------------------------------------------------------

piece = st.tuples(st.integers(0, 2), st.binary(max_size=80), st.one_of(st.none(), st.integers(0, 30)))


class Calls:
    """What a connection needs of its server; joins what each call gets."""

    max_message_bytes, max_calls = 10_000, 100

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def begin(self, call: Call) -> None:
        self.calls.append(call)

    def joined(self, connection: object) -> None: ...

    quiet = left = joined


class Sink:
    """A transport that keeps what is written."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...


def heard(segments: list[bytes]) -> tuple[list[tuple[list[bytes], bool]], bytes]:
    calls, sink = Calls(), Sink()
    connection = Connection(calls)
    connection.connection_made(sink)  # type: ignore[arg-type]
    for segment in segments:
        connection.data_received(segment)
    assert not sink.closed
    return [(list(call._inbox), call.input_ended) for call in calls.calls], sink.written


async def test_what_comes_after_the_end_is_not_begun() -> None:
    client = Peer.__new__(Peer)
    client.rules = H2Connection(H2Configuration(client_side=True))
    client.rules.initiate_connection()
    greeting = client.rules.data_to_send()
    client.open("Echo")
    calls, sink = Calls(), Sink()
    connection = Connection(calls)
    connection.connection_made(sink)  # type: ignore[arg-type]
    connection.data_received(greeting + frame(7, 0, 0, bytes(8)) + client.rules.data_to_send())
    assert sink.closed
    assert not calls.calls


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(piece, max_size=25),
    st.lists(st.binary(max_size=60), max_size=3),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_frames_cut_into_any_segments_say_the_same(
    pieces: list[tuple[int, bytes, int | None]], messages: list[bytes], cuts: list[int]
) -> None:
    rules = H2Connection(H2Configuration(client_side=True))
    client = Peer.__new__(Peer)
    client.rules = rules
    rules.initiate_connection()
    streams = [client.open("Echo") for _ in range(3)]
    raw = rules.data_to_send()
    left = dict.fromkeys(streams, b"".join(map(prefixed, messages)))
    for which, other, padding in pieces:  # other frames lie between the DATA
        stream = streams[which]
        raw += data_frame(stream, left[stream][: len(other)], padding=padding)
        left[stream] = left[stream][len(other) :]
        raw += frame(6, 0, 0, (other + bytes(8))[:8]) if len(other) % 3 == 0 else b""
        raw += frame(0xEE, 0, stream, other) if len(other) % 3 == 1 else b""
        raw += frame(8, 0, stream, struct.pack(">I", 1 + len(other)))
    raw += b"".join(data_frame(stream, rest, end=True) for stream, rest in left.items())
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    segments: list[bytes] = [raw[a:b] for a, b in pairwise(edges)]

    async def both() -> None:
        whole = heard([raw])
        assert whole[0] == [(messages, True)] * 3
        assert heard(segments) == whole
        assert heard([bytes((byte,)) for byte in raw]) == whole

    asyncio.run(both())
