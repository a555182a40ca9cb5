"""The loop that gRPC wakes less often: everything is handled, nothing late, others' sockets untouched."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc.aio
import pytest

from gateway import loop as module
from gateway.loop import GatewayLoop

T = TypeVar("T")
_ECHO = "/test.Echo/Echo"


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=GatewayLoop) as runner:
        return runner.run(main)


async def _serve(
    talk: Callable[[grpc.aio.Channel], Awaitable[None]],
) -> None:
    async def echo(messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await talk(channel)
    finally:
        await server.stop(None)


@pytest.mark.parametrize("calm", [True, False])
def test_every_message_of_many_streams_comes_back_in_order(
    calm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not calm:  # pauses from the first measured stretch on
        monkeypatch.setattr(module, "_CALM_PER_S", 0.0)
        monkeypatch.setattr(module, "_PAUSE_PER_OPERATION_S", 1.0)
        monkeypatch.setattr(module, "_MEMORY_S", 0.0)

    async def one(channel: grpc.aio.Channel, number: int) -> None:
        call: Any = channel.stream_stream(_ECHO)()
        for k in range(50):
            await call.write(f"{number}-{k}".encode())
            assert await call.read() == f"{number}-{k}".encode()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    async def talk(channel: grpc.aio.Channel) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(channel, number))

    run(_serve(talk))


def test_what_waits_is_handled_at_one_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class PollerCompletionQueue:
        """Named as grpc.aio's own."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.calls = sock, 0

        def handle(self) -> None:
            self.calls += 1
            self.sock.recv(1)

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        reads, writes = socket.socketpair()
        with reads, writes:
            reads.setblocking(False)
            queue = PollerCompletionQueue(reads)
            loop.add_reader(reads, queue.handle)
            for _ in range(100):
                writes.send(b"1")
            for _ in range(5):
                await asyncio.sleep(0)
            many = queue.calls
            writes.send(b"1")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loop.remove_reader(reads)
            return many, queue.calls

    assert run(main()) == (1, 2)


def test_a_queue_that_is_removed_while_it_pauses_stays_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CALM_PER_S", 0.0)
    monkeypatch.setattr(module, "_PAUSE_PER_OPERATION_S", 1.0)
    monkeypatch.setattr(module, "_MEMORY_S", 0.0)

    class PollerCompletionQueue:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.handled = asyncio.Event()

        def handle(self) -> None:
            self.sock.recv(1)
            self.handled.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reads, writes = socket.socketpair()
        with reads, writes:
            reads.setblocking(False)
            queue = PollerCompletionQueue(reads)
            loop.add_reader(reads, queue.handle)
            writes.send(b"1")
            await queue.handled.wait()  # and now it pauses
            loop.remove_reader(reads)
            queue.handled.clear()
            writes.send(b"1")
            paused = loop.create_future()
            loop.call_later(2 * module._LONGEST_PAUSE_S, paused.set_result, None)
            await paused
            assert not queue.handled.is_set()

    run(main())


def test_other_sockets_are_watched_as_ever() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        reads, writes = socket.socketpair()
        calls, three = 0, asyncio.Event()

        def read() -> None:
            nonlocal calls
            calls += 1
            reads.recv(1)
            if calls == 3:
                three.set()

        with reads, writes:
            reads.setblocking(False)
            loop.add_reader(reads, read)
            writes.send(b"123")
            async with asyncio.timeout(10):
                await three.wait()
            loop.remove_reader(reads)
        return calls

    assert run(main()) == 3
