"""A bad network to order, between two ends that a test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from load.emulators import Emulators
from load.emulators.proxied import Weather
from load.emulators.proxy import Proxy

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pipes:
    """A proxy, and what comes out at its far side."""

    def __init__(self, proxy: Proxy, arrivals: asyncio.Queue[End]) -> None:
        self.proxy, self._arrivals = proxy, arrivals
        self._writers: list[asyncio.StreamWriter] = []

    async def near(self) -> End:
        host, _, port = self.proxy.address.rpartition(":")
        end = await asyncio.open_connection(host, int(port))
        self._writers.append(end[1])
        return end

    async def pair(self) -> tuple[End, End]:
        near = await self.near()
        async with asyncio.timeout(5):
            return near, await self._arrivals.get()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def pipes() -> AsyncIterator[Pipes]:
    arrivals: asyncio.Queue[End] = asyncio.Queue()
    kept = []

    def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        arrivals.put_nowait((reader, writer))

    before = asyncio.all_tasks()
    server = await asyncio.start_server(arrived, "127.0.0.1", 0)
    proxy = Proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await proxy.open()
    made = Pipes(proxy, arrivals)
    try:
        yield made
    finally:
        made.close()
        await proxy.close()
        for writer in kept:
            writer.close()
        server.close()
        await server.wait_closed()
    assert not asyncio.all_tasks() - before


def now() -> float:
    return asyncio.get_running_loop().time()


async def heard(end: End, count: int) -> bytes:
    async with asyncio.timeout(10):
        return await end[0].readexactly(count)


async def ended(end: End) -> bool:
    """Whether it was reset; waits for its end."""
    async with asyncio.timeout(5):
        try:
            while await end[0].read(65_536):
                pass
        except ConnectionResetError:
            return True
    return False


async def test_bytes_pass_both_ways_and_an_end_is_passed_on() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        big = bytes(range(256)) * 8_000
        near[1].write(big)
        assert await heard(far, len(big)) == big
        far[1].write(b"back")
        assert await heard(near, 4) == b"back"
        assert (them.proxy.passed, them.proxy.delayed) == (len(big) + 4, 0)
        far[1].close()
        assert not await ended(near)
        await until(lambda: them.proxy.connections == 0)


async def test_latency_and_jitter_delay_and_keep_the_order() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        them.proxy.set_weather(Weather(latency_ms=80, jitter_ms=40))
        begun = now()
        for number in range(30):
            near[1].write(bytes([number]))
            await near[1].drain()
            await asyncio.sleep(0)
        assert await heard(far, 30) == bytes(range(30))
        assert now() - begun > 0.040
        begun = now()
        far[1].write(b"x")
        await heard(near, 1)
        assert now() - begun > 0.039
        assert (them.proxy.passed, them.proxy.delayed) == (31, 31)
        them.proxy.set_weather(Weather(latency_ms=60_000))
        near[1].write(b"slow")
        await near[1].drain()
        them.proxy.clear()
        assert await heard(far, 4) == b"slow"


async def test_a_narrow_line_carries_so_much_a_second() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        them.proxy.set_weather(Weather(kbps=800))
        begun = now()
        near[1].write(bytes(20_000))  # 0.2 s
        first = await heard(far, 2_000)
        assert now() - begun < 0.15, "it does not come in one piece at the end"
        await heard(far, 20_000 - len(first))
        assert now() - begun > 0.195


async def test_in_a_standstill_nothing_moves_and_nothing_is_lost() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        them.proxy.set_weather(Weather(standstill=True), for_s=0.3)
        begun = now()
        near[1].write(b"one")
        far[1].write(b"two")
        other = await them.near()
        other[1].write(b"three")
        assert await heard(far, 3) == b"one"
        assert now() - begun > 0.29
        assert await heard(near, 3) == b"two"
        async with asyncio.timeout(5):
            assert await heard(await them._arrivals.get(), 5) == b"three"


async def test_a_client_that_does_not_read_is_not_buffered_without_end() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        near[0]._transport.pause_reading()  # type: ignore[attr-defined]
        far[1].transport.set_write_buffer_limits(high=1)
        far[1].write(bytes(64 * 2**20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await far[1].drain()
        far[1].transport.abort()


async def test_a_reset_is_felt_at_both_ends() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        assert them.proxy.reset() == 1
        assert await ended(near)
        assert await ended(far)
        await them.pair()  # it listens on


async def test_a_slow_close_leaves_the_client_with_nobody() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        begun = now()
        assert them.proxy.slow_close(0.3) == 1
        assert not await ended(far)
        assert now() - begun < 0.25
        near[1].write(b"anybody?")
        await near[1].drain()
        assert not await ended(near)
        assert now() - begun > 0.29


async def test_a_side_that_vanishes_is_not_heard_of_again_and_new_connections_are_fine() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        near[1].write(b"x")
        assert await heard(far, 1) == b"x"
        assert them.proxy.vanish() == 1
        for end in (near, far):
            end[1].write(b"anybody?")
            await end[1].drain()
        other, answer = await them.pair()
        other[1].write(b"here")
        assert await heard(answer, 4) == b"here"
        assert them.proxy.accepted == 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await near[0].read(1)
        near[1].close()
        assert await ended(far)


async def test_refused_connections_are_reset_and_the_others_live_on() -> None:
    async with pipes() as them:
        near, far = await them.pair()
        them.proxy.refuse(60)
        assert await ended(await them.near())
        near[1].write(b"x")
        assert await heard(far, 1) == b"x"
        them.proxy.clear()
        await them.pair()


async def test_down_closes_the_port_and_opens_the_same_again() -> None:
    async with pipes() as them:
        near, _ = await them.pair()
        address = them.proxy.address
        await them.proxy.down(0.2)
        assert await ended(near)
        with pytest.raises(ConnectionRefusedError):
            await them.near()
        await until(lambda: them.proxy.listening)
        assert them.proxy.address == address
        await them.pair()


async def test_nobody_behind_it_is_a_reset() -> None:
    proxy = Proxy("127.0.0.1:1")
    await proxy.open()
    host, _, port = proxy.address.rpartition(":")
    near = await asyncio.open_connection(host, int(port))
    assert await ended(near)
    near[1].close()
    await proxy.close()


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


# --- over HTTP, beside the emulators


async def test_proxies_are_made_and_struck_over_http() -> None:
    parts = Emulators()
    addresses = await parts.open()
    try:
        async with aiohttp.ClientSession(addresses.control) as control:

            async def post(path: str, body: Any) -> tuple[int, Any]:
                async with control.post(path, json=body) as answer:
                    return answer.status, await answer.json()

            where = addresses.llm.removeprefix("http://").removesuffix("/v1")
            status, made = await post("/proxies", {"name": "llm", "upstream": where})
            assert status == 200, made
            async with aiohttp.ClientSession() as client:

                async def ask() -> int:
                    async with client.get(f"http://{made['address']}/v1/models") as answer:
                        return answer.status

                assert await ask() == 200
                status, struck = await post("/proxies/llm/fault", {"kind": "down", "for_s": 60})
                assert (status, struck["connections"]) == (200, 1)
                with pytest.raises(aiohttp.ClientError):
                    await ask()
            async with control.get("/proxies") as answer:
                assert (await answer.json())["llm"]["listening"] is False

            for path, body, says in (
                ("/proxies", {"name": "llm", "upstream": where}, "there is a proxy llm already"),
                ("/proxies", {"name": "", "upstream": where}, "send a text"),
                ("/proxies/llm/fault", {"kind": "rain"}, "send one of latency"),
                ("/proxies/llm/fault", {"kind": "reset", "for_s": 1}, "takes nothing else"),
                ("/proxies/llm/fault", {"kind": "latency", "latency_ms": -1}, "send a number"),
                ("/proxies/llm/fault", {"kind": "bandwidth"}, "kbps above 0"),
            ):
                status, answer = await post(path, body)
                assert status == 400, body
                assert says in answer["error"], answer
            assert (await post("/proxies/asr/fault", {"kind": "reset"}))[0] == 404
            async with control.delete("/proxies/llm/fault") as healed:
                assert healed.status == 200
            async with control.get("/proxies") as answer:
                assert (await answer.json())["llm"]["listening"] is True
    finally:
        await parts.close()
