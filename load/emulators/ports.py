"""The emulators' ports: opened, cut, closed for a while and opened again under the same number."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

import grpc
import grpc.aio
from aiohttp import web

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset."""
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
    # Clients of all kinds: none is turned away for the pings it sends.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # A fixed window: probing for a better one costs a ping for every few messages.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
]


class Port(ABC):
    """One part's listening address."""

    def __init__(self, address: str) -> None:
        """address: host:port; port 0 takes any, and keeps it."""
        self.host, _, number = address.rpartition(":")
        self.number = int(number)
        self.listening = False
        self._reopening: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.number}"

    async def open(self) -> None:
        """Raises: OSError, the port cannot be had."""
        self.number = await self._open()
        self.listening = True

    async def close(self) -> None:
        """At once: what is open is cut."""
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait([self._reopening])
            self._reopening = None
        await self._shut()

    def cut(self) -> int:
        """Resets every connection and listens on. Returns their number."""
        return reset_connections(self.number)

    async def restart(self, down_s: float) -> None:
        """Returns when the port is closed; it opens again by itself after `down_s`."""
        await self.close()
        self._reopening = asyncio.create_task(self._reopen(down_s))

    async def reopened(self) -> None:
        """Returns when the port listens again. Raises: OSError, it could not."""
        if self._reopening is not None:
            await asyncio.shield(self._reopening)

    async def _reopen(self, down_s: float) -> None:
        await asyncio.sleep(down_s)
        await self.open()

    async def _shut(self) -> None:
        if self.listening:
            self.listening = False
            self.cut()
            await self._close()

    @abstractmethod
    async def _open(self) -> int:
        """Returns the number of the port."""

    @abstractmethod
    async def _close(self) -> None: ...


class GrpcPort(Port):
    """A gRPC server, made anew each time the port opens."""

    def __init__(self, address: str, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        super().__init__(address)
        self._handlers = handlers
        self._server: grpc.aio.Server | None = None

    async def _open(self) -> int:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(tuple(self._handlers))
        try:
            number = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(f"the emulators cannot listen on {self.address}: choose another address") from error
        await server.start()
        self._server = server
        return number

    async def _close(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


class HttpPort(Port):
    """An aiohttp application, made anew each time the port opens."""

    def __init__(self, address: str, routes: Sequence[web.RouteDef]) -> None:
        super().__init__(address)
        self._routes = routes
        self._runner: web.AppRunner | None = None

    async def _open(self) -> int:
        app = web.Application(client_max_size=4 * 2**20)
        app.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.number, reuse_address=True).start()
        except OSError as error:
            await runner.cleanup()
            raise OSError(f"the emulators cannot listen on {self.address}: choose another address") from error
        self._runner = runner
        number: int = runner.addresses[0][1]
        return number

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def reset_connections(port: int) -> int:
    """Resets every TCP connection that this process accepted on `port`. Returns their number.

    gRPC does not let its sockets be seen, so they are looked up among the open files of the process;
    where that cannot be done (it needs /proc), nothing is cut.
    """
    found = 0
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return 0
    for name in names:
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as double:
                if double.type != socket.SOCK_STREAM or double.family not in (
                    socket.AF_INET,
                    socket.AF_INET6,
                ):
                    continue
                if double.getsockname()[1] != port:
                    continue
                double.getpeername()  # raises for the one that listens
                double.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                double.shutdown(socket.SHUT_RDWR)
                found += 1
        except OSError:
            continue
    return found
