"""A channel for single questions, dialled anew when the other side has vanished without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.aio

from gateway.tls.client import ClientSecurity
from gateway.triton.channel import open_channel
from gateway.triton.line import Line


def open_steady_channel(
    address: str, *, security: ClientSecurity | None = None, name: str = ""
) -> grpc.aio.Channel:
    """As `open_channel`; it is a `SteadyChannel`, which is enough of a channel for stubs."""
    channel = SteadyChannel(
        address,
        lambda: open_channel(address, security=security, name=name),
        None if security is None else security.version,
    )
    return cast(grpc.aio.Channel, channel)


class SteadyChannel:
    """Has of grpc.aio.Channel what stubs use: each call goes to the connection of its time.

    A unary call that ends with its deadline, while nobody heard anything on that connection, has the next
    ones dial. Streams are left out of that, and are cancelled where others find the connection silent.
    """

    def __init__(
        self, address: str, dial: Callable[[], grpc.aio.Channel], version: Callable[[], int] | None = None
    ) -> None:
        """address: as the log names it. version: see `Line`."""
        self._line: Line[None] = Line(address, dial, lambda channel: None, version=version)

    def unary_unary(self, method: str, *codecs: Any, **options: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel's; what it returns is awaited, and no more than that."""

        async def call(request: Any, **wishes: Any) -> Any:
            since = asyncio.get_running_loop().time()
            with self._line.use() as connection:
                try:
                    reply = await connection.channel.unary_unary(method, *codecs, **options)(
                        request, **wishes
                    )
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        connection.silent_since(since)
                    raise
                connection.heard()
                return reply

        return call

    def stream_stream(self, method: str, *codecs: Any, **options: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel's."""

        def call(*arguments: Any, **wishes: Any) -> Any:
            with self._line.use() as connection:
                stream = connection.channel.stream_stream(method, *codecs, **options)(*arguments, **wishes)
                connection.keep_for(stream)
                return stream

        return call

    async def close(self, grace: float | None = None) -> None:
        """Calls in progress are cancelled."""
        await self._line.close()
