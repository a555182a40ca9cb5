"""A TCP proxy that stands for a bad network between two programs.

What it does to bytes is called weather (latency, jitter, bandwidth, a standstill) and may change at any
time; what it does to connections happens at once (reset, slow close), or for a while (refuse, down).
"""

from __future__ import annotations

import asyncio
import random
import socket

from load.emulators.proxied import FINE, End, Pair, Weather

_CONNECT_S = 5.0
_BACKLOG = 512


class Proxy:
    """One listening port in front of one address; belongs to the loop that opened it."""

    def __init__(self, upstream: str, address: str = "127.0.0.1:0", *, seed: int = 1) -> None:
        """upstream, address: host:port; port 0 takes any, and keeps it while the proxy is down."""
        self.upstream = upstream
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._pairs: set[Pair] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._returning: asyncio.Task[None] | None = None
        self._clearing: asyncio.TimerHandle | None = None
        self.random = random.Random(seed)
        self.weather = FINE
        self.refusing = False
        self.accepted = 0
        """Connections so far."""
        self.passed = 0
        """Bytes that went through, both ways."""
        self.delayed = 0
        """Bytes that met bad weather."""

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._pairs)

    @property
    def listening(self) -> bool:
        return self._server is not None

    async def open(self) -> str:
        """Returns where it listens. Raises OSError, the port cannot be had."""
        # Holds the port while nobody listens on it, and takes no connections itself.
        self._holder = _bound(self._host, self._port)
        self._port = self._holder.getsockname()[1]
        await self._listen()
        return self.address

    async def close(self) -> None:
        self.clear()
        await self._stay_down()
        await self._hush()
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    # ---- what goes wrong ----

    def set_weather(self, weather: Weather, for_s: float = 0.0) -> None:
        """For everything that is under way from now on; for_s: and then it clears up by itself."""
        self._for(for_s)
        self.weather = weather
        for pair in self._pairs:
            pair.feel()

    def refuse(self, for_s: float) -> None:
        """New connections are taken and reset; those there are live on."""
        self._for(for_s)
        self.refusing = True

    def clear(self) -> None:
        """Fine weather, nobody refused."""
        self._for(0.0)
        self.refusing, self.weather = False, FINE
        for pair in self._pairs:
            pair.feel()

    def reset(self) -> int:
        """Both ends of every connection get a TCP reset. Returns how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def slow_close(self, after_s: float) -> int:
        """Every connection is closed at its far end now, and at its near end after `after_s`: until then the
        client talks to nobody. Returns how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.close_slowly(after_s)
        return len(pairs)

    def vanish(self) -> int:
        """The far side is gone and nobody is told: what present connections are sent goes nowhere. New ones are
        fine. Returns how many there were."""
        for pair in self._pairs:
            pair.vanish()
        return len(self._pairs)

    async def down(self, for_s: float) -> int:
        """Everything is reset, and the port is closed for so long, or until `up()`. Returns the number of
        connections."""
        await self._stay_down()
        count = len(self._pairs)
        await self._hush()
        self._returning = asyncio.create_task(self._return(for_s))
        return count

    async def up(self) -> None:
        """As if nothing had ever been wrong: listening, fine weather, nobody refused."""
        self.clear()
        await self._stay_down()
        if self._server is None and self._holder is not None:
            await self._listen()

    # ---- inside ----

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        one = _bound(self._host, self._port)
        self._server = await loop.create_server(lambda: End(self), sock=one, backlog=_BACKLOG)

    async def _return(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._listen()

    async def _stay_down(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait({self._returning})
            self._returning = None

    async def _hush(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._dials:
            task.cancel()
        self.reset()
        await asyncio.sleep(0)  # what was reset says so to its protocol

    def _for(self, for_s: float) -> None:
        if self._clearing is not None:
            self._clearing.cancel()
            self._clearing = None
        if for_s > 0:
            self._clearing = asyncio.get_running_loop().call_later(for_s, self.clear)

    def accept(self, near: End) -> None:
        """A client is there."""
        self.accepted += 1
        if self.refusing:
            near.reset()
            return
        pair = Pair(self, near)
        self._pairs.add(pair)
        near.pause()  # until there is somebody to pass it on to
        task = asyncio.get_running_loop().create_task(self._dial(pair))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, pair: Pair) -> None:
        host, _, port = self.upstream.rpartition(":")
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, far = await asyncio.get_running_loop().create_connection(
                    lambda: End(self, pair), host, int(port)
                )
        except (OSError, TimeoutError):
            pair.reset()
            return
        pair.join(far)

    def forget(self, pair: Pair) -> None:
        self._pairs.discard(pair)


def _bound(host: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
    except OSError as error:
        one.close()
        raise OSError(f"the proxy cannot listen on {host}:{port}: choose another address") from error
    one.setblocking(False)
    return one
