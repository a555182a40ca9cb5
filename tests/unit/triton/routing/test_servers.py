"""Several servers in virtual time: who gets calls while servers fail, vanish from the list and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import grpc.aio
import pytest

from gateway.triton.errors import ModelNotLoaded, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.manager.types import NotNow
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.server import Health, Server
from gateway.triton.routing.servers import Servers
from tests.support.virtual_time import run_virtual, settle
from tests.unit.triton.routing.parts import model


class Channel:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class World:
    """The servers that answer, the names that are known, and a diary."""

    def __init__(self, addresses: str, *, attend: Any = None, **names: list[str]) -> None:
        self.names = names
        self.down: set[str] = set()
        self.silent: set[str] = set()
        self.dialled: dict[str, list[Channel]] = {}
        self.probes: list[tuple[float, str]] = []
        self.resolved: list[float] = []
        self.servers: Servers[str] = Servers(
            addresses,
            self._dial,
            lambda channel: "stubs",
            probe=self._probe,
            attend=attend,
            resolve=self._resolve,
        )

    def _dial(self, address: str, name: str) -> grpc.aio.Channel:
        self.dialled.setdefault(f"{address} {name}".strip(), []).append(Channel())
        return cast(grpc.aio.Channel, self.dialled[f"{address} {name}".strip()][-1])

    async def _resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(now())
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    async def _probe(self, server: Server[str]) -> bool:
        self.probes.append((now(), server.address))
        if server.address in self.silent:
            await asyncio.sleep(3600)
        if server.address in self.down:
            raise TritonUnavailable("connection refused")
        return True

    async def call(self, wanted: Any = "", *, seconds: float = 0.0) -> str:
        """The address that took a call; fails as a call to a server that is down does."""
        async with self.servers.use(wanted) as server:
            await asyncio.sleep(seconds)
            if server.address in self.down:
                raise TritonUnavailable("the connection was cut")
            if server.address in self.silent:
                await asyncio.sleep(2)
                raise TritonTimeout("no answer")
            return server.address


def now() -> float:
    return asyncio.get_running_loop().time()


def inside(addresses: str, scenario: Any, **known: Any) -> None:
    """Run `scenario(world)`; the world is made in the loop, as channels are."""

    async def main() -> None:
        world = World(addresses, **known)
        try:
            await scenario(world)
        finally:
            await world.servers.close()
        await settle()
        left = [address for address, channels in world.dialled.items() if not all(c.closed for c in channels)]
        assert not left

    run_virtual(main())


def test_calls_go_to_the_server_with_the_fewest_and_round_when_all_are_idle() -> None:
    async def scenario(world: World) -> None:
        assert {await world.call() for _ in range(6)} == {"a:1", "b:1", "c:1"}
        async with AsyncExitStack() as stack:
            had = [await stack.enter_async_context(world.servers.use()) for _ in range(6)]
            assert sorted(server.address for server in had) == ["a:1", "a:1", "b:1", "b:1", "c:1", "c:1"]
        assert [server.users for server in world.servers.listed] == [0, 0, 0]

    inside("a:1,b:1,c:1", scenario, a=["10.0.0.1"], b=["10.0.0.2"], c=["10.0.0.3"])


def test_a_call_is_made_where_it_is_wanted() -> None:
    async def scenario(world: World) -> None:
        assert [await world.call("10.0.0.2:1") for _ in range(3)] == ["10.0.0.2:1"] * 3
        assert await world.call(lambda servers: servers[-1]) == "10.0.0.2:1"
        for wanted, sentence in (
            ("10.0.0.9:1", "the Triton at 10.0.0.9:1 cannot be reached"),
            (lambda servers: None, "no Triton takes the call, of 10.0.0.1:1, 10.0.0.2:1"),
        ):
            with pytest.raises(TritonUnavailable, match=sentence):
                await world.call(wanted)
        assert now() == 0

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_with_one_server_nothing_is_shunned_or_asked() -> None:
    async def scenario(world: World) -> None:
        world.down.add("10.0.0.1:1")
        for _ in range(5):
            with pytest.raises(TritonUnavailable, match="cut"):
                await world.call()
        world.down.clear()
        assert await world.call() == "10.0.0.1:1"
        assert (world.probes, world.resolved, now()) == ([], [], 0)

    inside("10.0.0.1:1", scenario)


def test_a_lost_server_takes_no_calls_until_it_answers_and_is_asked_ever_more_rarely() -> None:
    async def scenario(world: World) -> None:
        world.down.add("10.0.0.1:1")
        with pytest.raises(TritonUnavailable, match="cut"):
            await world.call("10.0.0.1:1")
        first, second = world.servers.listed
        assert (first.health, first.takes_calls, second.takes_calls) == (Health.LOST, False, True)
        assert [await world.call() for _ in range(4)] == ["10.0.0.2:1"] * 4
        with pytest.raises(TritonUnavailable, match=r"the Triton at 10\.0\.0\.1:1 cannot be reached"):
            await world.call("10.0.0.1:1")
        assert now() == 0, "nobody waits for a lost server that was asked for by name"
        await asyncio.sleep(20)
        assert [at for at, _ in world.probes] == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5]
        world.down.clear()
        await asyncio.sleep(2.5)
        assert first.health is Health.UP
        assert {await world.call() for _ in range(4)} == {"10.0.0.1:1", "10.0.0.2:1"}

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_many_calls_that_fail_at_once_ask_once_and_all_move() -> None:
    async def scenario(world: World) -> None:
        async def session() -> str:
            for _ in range(2):
                try:
                    return await world.call(seconds=1)
                except TritonUnavailable:
                    continue
            return "nothing"

        sessions = [asyncio.create_task(session()) for _ in range(40)]
        await asyncio.sleep(0.5)
        assert [server.users for server in world.servers.listed] == [20, 20]
        world.down.add("10.0.0.1:1")
        assert set(await asyncio.gather(*sessions)) == {"10.0.0.2:1"}
        assert [at for at, _ in world.probes if at <= 1] == [1]

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_a_silent_server_is_lost_within_a_second_of_the_first_call_that_waited_in_vain() -> None:
    async def scenario(world: World) -> None:
        world.silent.add("10.0.0.1:1")
        with pytest.raises(TritonTimeout):
            await world.call("10.0.0.1:1")
        assert now() == 3
        assert world.servers.listed[0].health is Health.LOST
        assert await world.call() == "10.0.0.2:1"

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (TritonUnavailable("the model's process died"), True),
        (TritonTimeout("no answer"), True),
        (ModelNotLoaded("no"), False),
        (NotNow("draining"), False),
        (TritonError("bad text"), False),
        (ValueError(), False),
    ],
)
def test_what_a_model_does_is_not_held_against_its_server(error: Exception, asked: bool) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(type(error)):
            async with world.servers.use("10.0.0.1:1"):
                raise error
        assert [address for _, address in world.probes] == ["10.0.0.1:1"] * asked
        assert world.servers.listed[0].health is Health.UP

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_a_server_that_is_lost_again_and_again_is_tried_later_until_a_call_goes_well() -> None:
    async def scenario(world: World) -> None:
        server = world.servers.listed[0]

        async def lost_for_s() -> float:
            world.down.add("10.0.0.1:1")
            with pytest.raises(TritonUnavailable):
                await world.call("10.0.0.1:1")
            world.down.clear()
            begun = now()
            seen = [server.health]
            await asyncio.sleep(6)
            assert [*seen, server.health] == [Health.LOST, Health.UP]
            return world.probes[-1][0] - begun

        assert [await lost_for_s() for _ in range(5)] == [0.5, 1, 2, 4, 5]
        assert await world.call("10.0.0.1:1") == "10.0.0.1:1"
        assert await lost_for_s() == 0.5

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_with_all_lost_a_call_waits_a_moment_for_the_first_to_return() -> None:
    async def scenario(world: World) -> None:
        world.down |= {"10.0.0.1:1", "10.0.0.2:1"}
        for address in sorted(world.down):
            with pytest.raises(TritonUnavailable):
                await world.call(address)
        with pytest.raises(
            TritonUnavailable, match=r"^no Triton takes the call, of 10\.0\.0\.1:1, 10\.0\.0\.2:1$"
        ):
            await world.call()
        assert now() == 1
        world.down.remove("10.0.0.2:1")
        assert await world.call() == "10.0.0.2:1"
        assert now() == 1.5

    inside("10.0.0.1:1,10.0.0.2:1", scenario)


def test_a_headless_name_is_followed_and_what_leaves_it_ends_in_peace() -> None:
    async def scenario(world: World) -> None:
        assert await world.call() in {"10.0.0.1:1", "10.0.0.2:1"}
        assert sorted(world.dialled) == ["10.0.0.1:1 t", "10.0.0.2:1 t"]
        async with world.servers.use("10.0.0.1:1") as kept:
            world.names["t"] = ["10.0.0.2", "10.0.0.3"]
            await asyncio.sleep(29)
            assert kept.takes_calls
            await asyncio.sleep(2)
            assert kept.removed
            assert sorted(server.address for server in world.servers.listed) == ["10.0.0.2:1", "10.0.0.3:1"]
            assert {await world.call() for _ in range(6)} == {"10.0.0.2:1", "10.0.0.3:1"}
            assert not world.dialled["10.0.0.1:1 t"][0].closed
        await settle()
        assert world.dialled["10.0.0.1:1 t"][0].closed
        assert len(world.dialled["10.0.0.2:1 t"]) == 1, "those that stay keep their connection"

    inside("dns:///t:1", scenario, t=["10.0.0.1", "10.0.0.2"])


def test_a_server_that_is_listed_again_while_in_use_goes_on() -> None:
    async def scenario(world: World) -> None:
        async with world.servers.use("10.0.0.1:1") as kept:
            world.names["t"] = ["10.0.0.2"]
            await asyncio.sleep(31)
            assert kept.removed
            world.names["t"] = ["10.0.0.1", "10.0.0.2"]
            await asyncio.sleep(31)
            assert not kept.removed
        assert await world.call("10.0.0.1:1") == "10.0.0.1:1"
        assert len(world.dialled["10.0.0.1:1 t"]) == 1

    async def begin(world: World) -> None:
        await world.servers.start()
        await scenario(world)

    inside("dns:///t:1", begin, t=["10.0.0.1", "10.0.0.2"])


def test_a_name_that_stands_for_nobody_yet_is_asked_for_often() -> None:
    async def scenario(world: World) -> None:
        await world.servers.start()
        await asyncio.sleep(7)
        assert world.resolved == [0, 2, 5]
        world.names["t"] = ["10.0.0.1"]
        await asyncio.sleep(2)
        assert await world.call() == "10.0.0.1:1"
        await asyncio.sleep(62)
        assert world.resolved == [0, 2, 5, 8, 39, 70]

    inside("dns:///t:1", scenario, t=[])


def test_a_name_is_resolved_anew_at_once_when_a_server_is_lost() -> None:
    async def scenario(world: World) -> None:
        await world.servers.start()
        world.down.add("10.0.0.1:1")
        world.names["t"] = ["10.0.0.2", "10.0.0.3"]
        with pytest.raises(TritonUnavailable):
            await world.call("10.0.0.1:1")
        await settle()
        assert world.resolved == [0, 0]
        assert [server.address for server in world.servers.listed] == ["10.0.0.2:1", "10.0.0.3:1"]
        assert now() == 0
        await asyncio.sleep(100)
        assert [address for _, address in world.probes] == ["10.0.0.1:1"], "it is asked no more"
        assert world.resolved == [0, 0, 31, 62, 93]

    inside("dns:///t:1", scenario, t=["10.0.0.1", "10.0.0.2"])


def test_with_one_pod_that_is_replaced_the_next_call_finds_the_new_one() -> None:
    async def scenario(world: World) -> None:
        assert await world.call() == "10.0.0.1:1"
        world.down.add("10.0.0.1:1")
        world.names["t"] = ["10.0.0.7"]
        with pytest.raises(TritonUnavailable):
            await world.call()
        await settle()
        assert await world.call() == "10.0.0.7:1"
        assert now() == 0

    inside("dns:///t:1", scenario, t=["10.0.0.1"])


def test_a_name_that_leads_nowhere_is_waited_for_and_then_said() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(
            TritonUnavailable, match=r"^no Triton takes the call, of t:1, whose name leads nowhere$"
        ):
            await world.call()
        assert now() == 1
        world.names["t"] = ["10.0.0.1"]
        assert await world.call() == "10.0.0.1:1"

    inside("dns:///t:1", scenario)


def test_names_that_are_not_resolved_any_more_keep_their_servers() -> None:
    async def scenario(world: World) -> None:
        await world.servers.start()
        del world.names["t"]
        await asyncio.sleep(100)
        assert len(world.resolved) > 3
        assert await world.call("10.0.0.2:1") == "10.0.0.2:1"

    inside("dns:///t:1", scenario, t=["10.0.0.1", "10.0.0.2"])


class Manager:
    """Attends to servers; `broken` ones refuse."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.diary: list[str] = []

    @asynccontextmanager
    async def attend(self, server: Server[str]) -> AsyncIterator[Manager]:
        await asyncio.sleep(3)
        if server.address in self.broken:
            raise TritonError(f"tts_a does not load on {server.address}")
        self.diary.append(f"+{server.address}")
        try:
            yield self
        finally:
            await asyncio.sleep(0)
            self.diary.append(f"-{server.address}")

    def resident(self) -> list[ModelInfo]:
        return [model("tts_a")]

    def known(self) -> list[ModelInfo]:
        return [model("tts_a"), model("tts_b")]


def test_servers_are_attended_to_before_they_are_used_and_until_they_are_let_go() -> None:
    manager = Manager()

    async def scenario(world: World) -> None:
        assert await world.call("10.0.0.1:1") == "10.0.0.1:1"
        assert now() == 3
        assert manager.diary == ["+10.0.0.1:1", "+10.0.0.2:1"]
        with world.servers.figures.of("10.0.0.2:1", "tts_a").request():
            found = [(c.info.name, c.server, c.resident, c.load.queue) for c in world.servers.candidates()]
        assert found == [
            ("tts_a", "10.0.0.1:1", True, 0),
            ("tts_b", "10.0.0.1:1", False, 0),
            ("tts_a", "10.0.0.2:1", True, 1),
            ("tts_b", "10.0.0.2:1", False, 0),
        ]
        world.names["t"] = ["10.0.0.2", "10.0.0.3"]
        await asyncio.sleep(31)
        assert manager.diary[2:] == ["-10.0.0.1:1"]
        assert {c.server for c in world.servers.candidates()} == {"10.0.0.2:1"}
        await asyncio.sleep(3)
        assert manager.diary[3:] == ["+10.0.0.3:1"]
        assert {c.server for c in world.servers.candidates()} == {"10.0.0.2:1", "10.0.0.3:1"}

    inside("dns:///t:1", scenario, attend=manager.attend, t=["10.0.0.1", "10.0.0.2"])
    assert sorted(manager.diary[4:]) == ["-10.0.0.2:1", "-10.0.0.3:1"]


def test_one_that_cannot_be_attended_to_is_left_out_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager()
    manager.broken.add("10.0.0.1:1")

    async def scenario(world: World) -> None:
        assert [await world.call() for _ in range(4)] == ["10.0.0.2:1"] * 4
        assert {c.server for c in world.servers.candidates()} == {"10.0.0.2:1"}
        manager.broken.clear()
        await asyncio.sleep(3.6)
        assert {await world.call() for _ in range(4)} == {"10.0.0.1:1", "10.0.0.2:1"}

    inside("10.0.0.1:1,10.0.0.2:1", scenario, attend=manager.attend)
    assert "the Triton at 10.0.0.1:1 cannot be used: tts_a does not load on 10.0.0.1:1" in caplog.messages


def test_where_none_can_be_attended_to_the_start_says_why() -> None:
    manager = Manager()
    manager.broken |= {"10.0.0.1:1", "10.0.0.2:1"}

    async def scenario(world: World) -> None:
        with pytest.raises(TritonError, match=r"tts_a does not load on 10\.0\.0\.1:1"):
            await world.servers.start()
        manager.broken.remove("10.0.0.2:1")
        await asyncio.sleep(5)
        assert await world.call() == "10.0.0.2:1"

    inside("10.0.0.1:1,10.0.0.2:1", scenario, attend=manager.attend)


def test_a_lost_server_is_no_candidate_and_its_figures_are_forgotten() -> None:
    manager = Manager()

    async def scenario(world: World) -> None:
        await world.servers.start()
        with world.servers.figures.of("10.0.0.1:1", "tts_a").request() as request:
            request.answered()
        world.down.add("10.0.0.1:1")
        with pytest.raises(TritonUnavailable):
            await world.call("10.0.0.1:1")
        assert {c.server for c in world.servers.candidates()} == {"10.0.0.2:1"}
        world.down.clear()
        await asyncio.sleep(0.6)
        assert [c.load.p50_s for c in world.servers.candidates()] == [None] * 4

    inside("10.0.0.1:1,10.0.0.2:1", scenario, attend=manager.attend)
