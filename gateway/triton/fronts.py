"""Several speech services (Riva fronts) as one thing to call: which takes a call, and which is left out.

A call goes to the service that has the fewest of ours, and stays there. One that cannot be reached, or says in
grpc.health.v1 that it does not serve (it is about to end, or its models are gone), gets no new calls until it says
otherwise; calls that it has may end. A single address is just called: it says by itself what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.telemetry.redaction import redacted
from gateway.triton.errors import TritonUnavailable
from gateway.triton.line import Channel, Connection
from gateway.triton.routing.addresses import Resolve, parse_targets, resolve_host
from gateway.triton.routing.server import Server
from gateway.triton.routing.servers import Servers

T = TypeVar("T")

_WORD_S = 1.0
"""A new address that says nothing for so long is tried again later."""
_ASK_S = 0.9
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_CODE = grpc.StatusCode
_NO_HEALTH = (_CODE.UNIMPLEMENTED, _CODE.NOT_FOUND, _CODE.UNAUTHENTICATED, _CODE.PERMISSION_DENIED)
"""It lives, and has nothing to say about this service's health, or not to us."""
_GONE = (_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED)


class Fronts(Generic[T]):
    """`async with fronts.call() as connection: …`, then `await close()`."""

    def __init__(
        self,
        addresses: str,
        stub: Callable[[Any], T],
        *,
        service: str,
        dial: Callable[[str, str], Channel],
        resolve: Resolve = resolve_host,
        version: Callable[[], int] | None = None,
    ) -> None:
        """addresses: "a:50051,b:50051", "dns:///speech.default.svc:50051", or a name that stands for several.

        stub: what is called on a channel. service: whose health counts, by its full gRPC name.
        dial, version: see `Servers`. Raises: TritonError for addresses that are none.
        """
        what = "speech service"
        targets = parse_targets(addresses, what)
        alone = len(targets) == 1 and not targets[0].host
        self._service = service
        self._servers: Servers[T] = Servers(
            addresses,
            dial,
            stub,
            probe=self._probe,
            attend=None if alone else self._attend,
            resolve=resolve,
            what=what,
            version=version,
        )

    @property
    def servers(self) -> list[Server[T]]:
        """Every service that is listed, with the calls that it has of ours."""
        return self._servers.listed

    @asynccontextmanager
    async def call(self) -> AsyncIterator[Connection[T]]:
        """For one call, on a service that takes calls. Raises on entry: TritonUnavailable."""
        async with self._servers.use() as server:
            with server.line.use() as connection:
                try:
                    yield connection
                except grpc.aio.AioRpcError as error:
                    if error.code() in _GONE:
                        self._servers.doubt(server)
                    raise

    async def close(self) -> None:
        """Calls in progress are cancelled."""
        await self._servers.close()

    async def _probe(self, server: Server[T]) -> bool:
        since = asyncio.get_running_loop().time()
        with server.line.use() as connection:
            health = health_pb2_grpc.HealthStub(connection.channel)
            try:
                reply = await health.Check(self._asked, timeout=_ASK_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is _CODE.DEADLINE_EXCEEDED:
                    connection.silent_since(since)
                return error.code() in _NO_HEALTH
            connection.heard()
            self._servers.rest(server, _rests(reply))
            return True

    @asynccontextmanager
    async def _attend(self, server: Server[T]) -> AsyncIterator[None]:
        """Listens to its health while it is listed."""
        if len(self._servers.listed) == 1 and not server.name:
            yield None
            return
        word: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        following = asyncio.create_task(self._follow(server, word), name=f"health of {server.address}")
        try:
            try:
                async with asyncio.timeout(_WORD_S):
                    await word
            except TimeoutError:
                raise TritonUnavailable(f"it has said nothing for {_WORD_S:g} s") from None
            yield None
        finally:
            following.cancel()
            await asyncio.wait({following})

    async def _follow(self, server: Server[T], word: asyncio.Future[None]) -> None:
        """word: done with the first news. Ends where the service has no health to tell, or cannot be reached first."""
        pause_s = _PAUSE_S
        while True:
            ended = "it ended the watch over its health"
            with server.line.use() as connection:
                health = health_pb2_grpc.HealthStub(connection.channel)
                try:
                    async for reply in health.Watch(self._asked):
                        connection.heard()
                        self._servers.rest(server, _rests(reply))
                        pause_s = _PAUSE_S
                        if not word.done():
                            word.set_result(None)
                except grpc.aio.AioRpcError as error:
                    if error.code() in _NO_HEALTH:
                        if not word.done():
                            word.set_result(None)
                        return
                    ended = redacted((error.details() or error.code().name).split("\n", 1)[0])[:200]
            if not word.done():
                word.set_exception(TritonUnavailable(ended))
                return
            self._servers.doubt(server)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @property
    def _asked(self) -> health_pb2.HealthCheckRequest:
        return health_pb2.HealthCheckRequest(service=self._service)


def _rests(reply: health_pb2.HealthCheckResponse) -> bool:
    return bool(reply.status == health_pb2.HealthCheckResponse.NOT_SERVING)


def status_of(error: grpc.aio.AioRpcError | TritonUnavailable) -> tuple[grpc.StatusCode, str]:
    """How a call ended, and in which words; also one that no service took."""
    if isinstance(error, TritonUnavailable):
        return _CODE.UNAVAILABLE, str(error)
    return error.code(), redacted((error.details() or "").strip().split("\n", 1)[0])[:200]
