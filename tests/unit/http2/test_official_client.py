"""The server as grpc's own Python clients see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from gateway.http2.call import Call, CallOver
from tests.support.h2_peer import SERVICE, bidi, serving

LARGE = 700_000
"""Several windows of a stream."""


@asynccontextmanager
async def dialled(
    port: int, *options: tuple[str, int], compression: grpc.Compression | None = None
) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options],
        compression=compression,
    ) as channel:
        yield channel


Handlers = dict[str, Any]


def name(method: str) -> str:
    return f"/{SERVICE}/{method}"


async def error_of(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as found:
        async with asyncio.timeout(10):
            await awaitable
    return found.value


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [0, 1, 20_000, LARGE])
async def test_the_four_kinds_of_call(size: int, compression: grpc.Compression | None) -> None:
    message = bytes(range(97, 123)) * (size // 26) + b"z" * (size % 26)

    async def some() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield message

    async with serving() as (_, port), dialled(port, compression=compression) as channel, asyncio.timeout(20):
        assert await channel.unary_unary(name("Shout"))(message) == message.upper()
        assert await channel.stream_unary(name("Join"))(some()) == message * 3
        assert [m async for m in channel.stream_stream(name("Echo"))(some())] == [message] * 3
        short = message[:500]
        assert b"".join([m async for m in channel.unary_stream(name("Letters"))(short)]) == short


async def test_the_blocking_client() -> None:
    def talk(port: int) -> None:
        channel: Any
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert channel.unary_unary(name("Shout"))(b"ab", timeout=10) == b"AB"
            assert list(channel.unary_stream(name("Letters"))(b"abc", timeout=10)) == [b"a", b"b", b"c"]
            assert channel.stream_unary(name("Join"))(iter([b"a", b"b"]), timeout=10) == b"ab"
            assert list(channel.stream_stream(name("Echo"))(iter([b"a", b"b"]), timeout=10)) == [b"a", b"b"]

    async with serving() as (_, port):
        await asyncio.to_thread(talk, port)


async def test_health_and_reflection_of_grpcs_own_packages() -> None:
    async with serving() as (server, port), dialled(port) as channel, asyncio.timeout(10):
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer((health.SERVICE_NAME,)), server
        )
        states = health_pb2.HealthCheckResponse
        await servicer.set("x", states.SERVING)
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="x"))).status == states.SERVING
        missing = await error_of(stub.Check(health_pb2.HealthCheckRequest(service="y")))
        assert missing.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="x"))
        assert (await watch.read()).status == states.SERVING
        await servicer.set("x", states.NOT_SERVING)
        assert (await watch.read()).status == states.NOT_SERVING
        watch.cancel()

        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        (answer,) = [a async for a in answers]
        assert [s.name for s in answer.list_services_response.service] == [health.SERVICE_NAME]

        unparsed = await error_of(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff"))
        assert unparsed.code() is grpc.StatusCode.INTERNAL
        assert "does not parse" in (unparsed.details() or "")


@pytest.mark.parametrize(
    "details", ["", "plain", "größer % 100 %25", "two\nlines\ttab\0", "😀 \x7f ~", "ü" * 1_000]
)
async def test_a_status_arrives_unchanged(details: str) -> None:
    async def fail(_requests: object, call: Call) -> None:
        await call.abort(grpc.StatusCode.DATA_LOSS, details, (("why", "because"),))

    async def fail_later(_requests: object, call: Call) -> None:
        await call.write(b"first")
        await fail(None, call)

    more = {"Fail": bidi(fail), "FailLater": bidi(fail_later)}
    async with serving(more) as (_, port), dialled(port) as channel, asyncio.timeout(10):
        for method in more:
            call = channel.stream_stream(name(method))()
            if method == "FailLater":
                assert await call.read() == b"first"
            assert await call.code() is grpc.StatusCode.DATA_LOSS
            assert await call.details() == details
            assert dict(await call.trailing_metadata())["why"] == "because"


async def test_metadata_both_ways() -> None:
    async def tell(_request: bytes, call: Call) -> bytes:
        await call.send_initial_metadata((("first", "1"),))
        call.set_trailing_metadata((("last", "2"),))
        return dict(call.invocation_metadata())["who"].encode()

    more: Handlers = {"Tell": grpc.unary_unary_rpc_method_handler(tell)}
    async with serving(more) as (_, port), dialled(port) as channel, asyncio.timeout(10):
        call = channel.unary_unary(name("Tell"))(b"", metadata=(("who", "me"),))
        assert await call == b"me"
        assert dict(await call.initial_metadata())["first"] == "1"
        assert dict(await call.trailing_metadata())["last"] == "2"


async def test_what_is_not_served_and_what_is_too_large() -> None:
    async with serving(max_message_bytes=1_000) as (_, port), asyncio.timeout(10):
        async with dialled(port) as channel:
            unknown = await error_of(channel.unary_unary(name("None"))(b""))
            assert unknown.code() is grpc.StatusCode.UNIMPLEMENTED
            assert await channel.unary_unary(name("Shout"))(b"a" * 1_000)
            large = await error_of(channel.unary_unary(name("Shout"))(b"a" * 1_001))
            assert large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert large.details() == "the message has 1001 bytes, 1000 are allowed"
        async with dialled(port, compression=grpc.Compression.Gzip) as channel:
            for method in (channel.unary_unary(name("Shout")), channel.unary_stream(name("Letters"))):
                bomb = method(bytes(500_000))
                assert await bomb.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_handler_that_raises_says_nothing_of_its_inside() -> None:
    async def bad(_request: bytes, _call: Call) -> bytes:
        raise ValueError("the password is 1234")

    async def cancelled(_request: bytes, _call: Call) -> bytes:
        waits = asyncio.get_running_loop().create_future()
        waits.cancel()
        await waits
        return b""

    async def slow_inside(_request: bytes, _call: Call) -> bytes:
        raise TimeoutError("10.0.0.1 did not answer")

    handlers: dict[str, Callable[..., Any]] = {"Bad": bad, "Cancelled": cancelled, "Slow": slow_inside}
    more: Handlers = {
        method: grpc.unary_unary_rpc_method_handler(handler) for method, handler in handlers.items()
    }
    async with serving(more) as (_, port), dialled(port) as channel:
        for method, kind in (
            ("Bad", "ValueError"),
            ("Cancelled", "CancelledError"),
            ("Slow", "TimeoutError"),
        ):
            error = await error_of(channel.unary_unary(name(method))(b""))
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert error.details() == f"internal error: {kind}"


class Waiting:
    """A handler that reads until somebody ends it."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None
        self.lost = False

    async def __call__(self, _requests: object, call: Call) -> None:
        self.began.set()
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except (asyncio.CancelledError, CallOver) as error:
            self.error, self.lost = error, call.cancelled()
            raise
        finally:
            self.ended.set()


async def test_the_clients_deadline_ends_the_handler() -> None:
    waiting = Waiting()
    async with serving({"Wait": bidi(waiting)}) as (_, port), dialled(port) as channel, asyncio.timeout(10):
        call = channel.stream_stream(name("Wait"))(timeout=0.1)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await waiting.ended.wait()
        assert isinstance(waiting.error, asyncio.CancelledError | CallOver)


async def test_cancel_reaches_the_handler() -> None:
    waiting = Waiting()
    async with (
        serving({"Wait": bidi(waiting)}) as (server, port),
        dialled(port) as channel,
        asyncio.timeout(10),
    ):
        call = channel.stream_stream(name("Wait"))()
        await call.write(b"x")
        await waiting.began.wait()
        (task,) = server._tasks
        call.cancel()
        await waiting.ended.wait()
        assert waiting.lost
        await asyncio.wait([task])
        assert not server._tasks
        assert await channel.unary_unary(name("Shout"))(b"a") == b"A", "the connection lives on"


async def test_too_many_calls_are_refused_until_some_end() -> None:
    waiting = Waiting()
    async with (
        serving({"Wait": bidi(waiting)}, max_calls=1) as (_, port),
        dialled(port) as one,
        dialled(port) as other,
        asyncio.timeout(10),
    ):
        call = one.stream_stream(name("Wait"))()
        await call.write(b"x")
        await waiting.began.wait()
        refused = await error_of(other.unary_unary(name("Shout"))(b"a"))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        assert await other.unary_unary(name("Shout"))(b"a") == b"A"


async def test_a_refusal_is_not_lost_on_who_writes_first() -> None:
    """grpc.aio makes INTERNAL of a status that overtakes its first message; here none does."""

    async def refuse(_requests: object, call: Call) -> None:
        await call.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    async with serving({"No": bidi(refuse)}) as (_, port):
        for _ in range(40):
            async with dialled(port) as channel, asyncio.timeout(10):
                call = channel.stream_stream(name("No"))()
                await call.write(b"x")
                refused = await error_of(call.read())
                assert refused.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_who_is_refused_and_says_nothing_takes_no_place() -> None:
    async def refuse(_requests: object, call: Call) -> None:
        await call.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    async with (
        serving({"No": bidi(refuse)}, max_calls=2) as (server, port),
        dialled(port) as channel,
        asyncio.timeout(10),
    ):
        silent = [channel.stream_stream(name("No"))() for _ in range(2)]
        while server._over < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert await channel.unary_unary(name("Shout"))(b"a") == b"A"
        for call in silent:
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_calls_of_one_connection_do_not_wait_for_each_other() -> None:
    """One is read by nobody, at the server and at the client; others pass."""
    hold = asyncio.Event()

    async def reads_nothing(_requests: object, call: Call) -> None:
        await call.send_initial_metadata(())
        await hold.wait()

    async def pours(_requests: object, call: Call) -> None:
        while True:
            await call.write(bytes(10_000))

    more = {"Deaf": bidi(reads_nothing), "Pour": bidi(pours)}
    async with serving(more) as (_, port), dialled(port) as channel, asyncio.timeout(20):
        deaf = channel.stream_stream(name("Deaf"))()

        async def push() -> None:
            while True:
                await deaf.write(bytes(10_000))

        pushing = asyncio.create_task(push())
        poured = channel.stream_stream(name("Pour"))()
        await poured.read()
        for _ in range(20):
            assert await channel.unary_unary(name("Shout"))(b"a" * 50_000) == b"A" * 50_000
        pushing.cancel()
        await asyncio.wait([pushing])
        deaf.cancel()
        poured.cancel()
        hold.set()


async def test_a_reader_that_is_slow_gets_everything_in_order() -> None:
    async def counts(_requests: object, call: Call) -> None:
        for number in range(2_000):
            await call.write(number.to_bytes(4, "big") * 250)

    async with (
        serving({"Count": bidi(counts)}) as (_, port),
        dialled(port, ("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0)) as channel,
        asyncio.timeout(20),
    ):
        call = channel.stream_stream(name("Count"))()
        for number in range(2_000):
            assert await call.read() == number.to_bytes(4, "big") * 250
        assert await call.read() is grpc.aio.EOF
