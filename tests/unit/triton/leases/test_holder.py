"""A process's side of the lease table, in virtual time, over a wire that loses, delays and forgets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.triton.errors import TritonTimeout, TritonUnavailable
from gateway.triton.leases.client import Change
from gateway.triton.leases.local import LocalLeases, LocalWire
from gateway.triton.manager.types import InUse, NotNow
from tests.support.virtual_time import run_virtual, settle

LEASE_S = 15.0
_DEADLINE_S = 2.0


class Wire(LocalWire):
    """To a table that several processes share; answers after `delay_s`."""

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.001
        self.asked = 0
        self.down = False
        """Nobody answers, and nothing arrives."""
        self.mute = False
        """Words arrive, answers do not."""
        self.late: list[Callable[[], Awaitable[Any]]] = []
        """Words that hang somewhere, while `hold_back`."""
        self.hold_back = False

    async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        self.asked += 1
        if self.down:
            raise TritonUnavailable("the lease table: connection refused")
        if self.hold_back:
            self.late.append(lambda: LocalWire.ask(self, message))
            await asyncio.sleep(_DEADLINE_S)
            raise TritonTimeout("the lease table: no answer")
        await asyncio.sleep(self.delay_s)
        answer = await super().ask(message, last=last)
        if self.mute:
            await asyncio.sleep(_DEADLINE_S)
            raise TritonTimeout("the lease table: no answer")
        return answer

    def holders(self, model: str) -> int:
        assert self._table is not None
        return int(self._table.records(asyncio.get_running_loop().time())[model]["holders"])

    def lose_the_table(self, *, grace_s: float = LEASE_S) -> None:
        self._grace_s = grace_s
        self._table = None


def process(wire: Wire, label: str = "a") -> LocalLeases:
    return LocalLeases(wire, label=label, lease_s=LEASE_S)


async def holders(wire: Wire, model: str) -> int:
    """As somebody who only looks sees it."""
    looker = process(wire, "looker")
    try:
        record = (await looker.records()).get(model)
        return record.holders if record is not None else 0
    finally:
        await looker.close()


def virtual(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test()

        run_virtual(main())

    run.__name__ = test.__name__
    return run


@virtual
async def test_only_the_first_of_many_sessions_asks() -> None:
    wire = Wire()
    one = process(wire)
    await asyncio.gather(*(one.hold("m") for _ in range(50)))
    for _ in range(50):
        await one.hold("m")
    assert wire.asked == 1
    await one.close()


@virtual
async def test_first_holds_of_several_models_share_words() -> None:
    wire = Wire()
    one = process(wire)
    await asyncio.gather(*(one.hold(f"m{n % 7}") for n in range(100)))
    assert wire.asked <= 2
    await one.close()


@virtual
async def test_taken_again_at_once_a_dropped_hold_costs_nothing() -> None:
    wire = Wire()
    one = process(wire)
    for _ in range(100):
        await one.hold("m")
        one.drop("m")
        await settle(3)
    assert wire.asked == 1
    await one.close()


@virtual
async def test_a_drop_is_told_after_a_second_and_then_nothing_more_is_said() -> None:
    wire = Wire()
    one = process(wire)
    await one.hold("m")
    one.drop("m")
    await asyncio.sleep(0.5)
    assert await holders(wire, "m") == 1
    await asyncio.sleep(0.6)
    assert await holders(wire, "m") == 0
    asked = wire.asked
    await asyncio.sleep(600)
    assert wire.asked == asked, "an idle process has nothing to say"
    await one.close()


@virtual
async def test_a_drop_too_many_is_not_counted() -> None:
    wire = Wire()
    one = process(wire)
    one.drop("m")
    await one.hold("m")
    one.drop("m")
    one.drop("m")
    await one.hold("m")
    await asyncio.sleep(LEASE_S * 3)
    assert await holders(wire, "m") == 1
    await one.close()


@virtual
async def test_a_hold_lasts_while_its_process_beats_and_lapses_when_it_is_silent() -> None:
    wire = Wire()
    one = process(wire)
    await one.hold("m")
    asked = wire.asked
    await asyncio.sleep(LEASE_S * 10)
    assert 29 <= wire.asked - asked <= 31
    assert await holders(wire, "m") == 1
    wire.down = True
    await asyncio.sleep(LEASE_S + 1)
    with pytest.raises(TritonUnavailable):
        await one.hold("m")  # by now it may be held no more: its own word for it does not count
    wire.down = False
    assert await holders(wire, "m") == 0
    await asyncio.sleep(1.1)
    assert await holders(wire, "m") == 1
    await one.hold("m")
    await one.close()


@virtual
async def test_unload_is_refused_while_others_or_we_hold_it() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.hold("m")
    for who in (one, other):
        with pytest.raises(InUse, match=r"m is in use by 1 session \(one\)") as refused:
            await who.begin("m", Change.UNLOAD)
        assert refused.value.leases == 1
    one.drop("m")
    await one.begin("m", Change.UNLOAD)  # its own dropped hold is given back with that very word
    with pytest.raises(NotNow, match="m is being unloaded by one"):
        await other.hold("m")
    with pytest.raises(NotNow, match="m is being unloaded by one"):
        await one.hold("m")
    await one.end("m", Change.UNLOAD, ok=True)
    await other.hold("m")
    await one.close()
    await other.close()


@virtual
async def test_force_unloads_and_the_holders_other_sessions_learn_of_it() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.hold("m")
    await other.begin("m", Change.UNLOAD, force=True)
    await asyncio.sleep(LEASE_S / 3 + 0.1)
    with pytest.raises(NotNow, match="m is being unloaded by other"):
        await one.hold("m")
    await other.end("m", Change.UNLOAD, ok=True)
    await one.hold("m")
    record = (await one.records())["m"]
    assert (record.holders, record.sessions) == (1, 2)
    await one.close()
    await other.close()


@virtual
async def test_one_loads_and_the_others_wait_for_their_turn() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.begin("m", Change.LOAD)
    await other.hold("m")  # for when it is there
    with pytest.raises(NotNow, match="m is being loaded by one"):
        await other.begin("m", Change.LOAD)
    with pytest.raises(NotNow, match="1 model being loaded already"):
        await other.begin("n", Change.LOAD, max_loads=1)
    await other.begin("n", Change.LOAD, max_loads=2)
    await one.end("m", Change.LOAD, ok=True, why="session", load_s=1.5)
    await other.end("n", Change.LOAD, ok=False, reason="no such file")
    records = await one.records()
    assert records["m"].since_s == pytest.approx(0, abs=0.1)
    assert (records["m"].why, records["m"].load_s) == ("session", 1.5)
    assert (records["n"].since_s, records["n"].reason, records["n"].failures) == (None, "no such file", 1)
    await one.close()
    await other.close()


@virtual
async def test_what_a_dead_process_began_lapses() -> None:
    wire = Wire()
    dead, other = process(wire, "dead"), process(wire, "other")
    await dead.begin("m", Change.UNLOAD)
    assert dead._task is not None
    dead._task.cancel()
    await asyncio.sleep(LEASE_S - 1)
    with pytest.raises(NotNow):
        await other.hold("m")
    await asyncio.sleep(1.1)
    await other.hold("m")
    await other.close()
    await dead.close()


@virtual
async def test_a_long_change_is_kept_by_the_heartbeat() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.begin("m", Change.LOAD)
    await asyncio.sleep(LEASE_S * 5)
    wire.lose_the_table()
    await asyncio.sleep(1.1)
    with pytest.raises(NotNow):
        await other.begin("m", Change.LOAD)
    await one.close()
    await other.begin("m", Change.LOAD)
    await other.close()


@virtual
async def test_a_new_table_is_complete_again_after_a_beat_and_refuses_to_unload_until_then() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.hold("m")
    await one.begin("n", Change.LOAD)
    await asyncio.sleep(0.1)
    wire.lose_the_table()
    with pytest.raises(NotNow) as refused:
        await other.begin("m", Change.UNLOAD)
    assert refused.value.wait_s == pytest.approx(LEASE_S)
    await asyncio.sleep(LEASE_S / 3)
    with pytest.raises(InUse):
        await other.begin("m", Change.UNLOAD)
    with pytest.raises(NotNow, match="n is being loaded by one"):
        await other.begin("n", Change.LOAD)
    await one.close()
    await other.close()


@virtual
async def test_without_an_answer_nothing_is_held_and_what_arrived_is_taken_back() -> None:
    wire = Wire()
    one = process(wire)
    wire.mute = True
    with pytest.raises(TritonUnavailable):
        await one.hold("m")
    assert wire.holders("m") == 1, "the table heard it"
    wire.mute = False
    await asyncio.sleep(1.1)
    assert await holders(wire, "m") == 0
    wire.mute = True
    with pytest.raises(TritonUnavailable):
        await one.begin("n", Change.LOAD)
    wire.mute = False
    other = process(wire, "other")
    await asyncio.sleep(1.1)
    await other.begin("n", Change.LOAD)
    await other.close()
    await one.close()


@virtual
async def test_words_that_arrive_late_change_nothing() -> None:
    wire = Wire()
    one = process(wire)
    await one.hold("m")
    one.drop("m")
    wire.hold_back = True
    await asyncio.sleep(1.5)  # "nothing is held" hangs on its way
    wire.hold_back = False
    await one.hold("m")
    assert wire.late
    for late in wire.late:
        await late()
    assert await holders(wire, "m") == 1
    await one.close()


@virtual
async def test_an_end_that_was_not_heard_is_told_later() -> None:
    wire = Wire()
    one, other = process(wire, "one"), process(wire, "other")
    await one.begin("m", Change.LOAD)
    wire.down = True
    await one.end("m", Change.LOAD, ok=True, load_s=3.0)
    wire.down = False
    await asyncio.sleep(1.1)
    await other.begin("m", Change.UNLOAD)
    assert (await other.records())["m"].load_s == 3.0
    await one.close()
    await other.close()


@virtual
async def test_an_end_that_is_told_later_counts_from_when_it_was() -> None:
    wire = Wire()
    one = process(wire, "one")
    await one.begin("m", Change.LOAD)
    wire.down = True
    await one.end("m", Change.LOAD, ok=True)
    await asyncio.sleep(4.0)
    wire.down = False
    await asyncio.sleep(1.1)
    since_s = (await one.records())["m"].since_s
    assert since_s is not None
    assert since_s >= 4.0
    await one.close()


@virtual
async def test_a_server_that_is_gone_is_not_asked_for_ever() -> None:
    wire = Wire()
    one = process(wire)
    await one.hold("m")
    wire.down = True
    one.drop("m")
    await asyncio.sleep(LEASE_S * 2)
    asked = wire.asked
    await asyncio.sleep(600)
    assert wire.asked == asked
    await one.close()


@virtual
async def test_a_waiter_that_is_cancelled_holds_nothing() -> None:
    wire = Wire()
    wire.delay_s = 0.5
    one = process(wire)
    alone = asyncio.create_task(one.hold("m"))
    stays, goes = asyncio.create_task(one.hold("n")), asyncio.create_task(one.hold("n"))
    change = asyncio.create_task(one.begin("o", Change.LOAD))
    await asyncio.sleep(0.1)
    for task in (alone, goes, change):
        task.cancel()
    await asyncio.gather(alone, goes, change, return_exceptions=True)
    await stays
    await asyncio.sleep(2)
    wire.delay_s = 0.0
    records = await one.records()
    assert records["m"].holders == 0
    assert (records["n"].holders, records["n"].sessions) == (1, 1)
    assert records["o"].changing is None
    await one.close()


@virtual
async def test_cancelled_in_the_moment_of_the_answer_nothing_is_kept() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Cancelling(Wire):
        async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
            answer = await super().ask(message, last=last)
            for task in tasks:  # after the answer, before the tasks that wait for it run
                asyncio.get_running_loop().call_soon(task.cancel)
            return answer

    wire = Cancelling()
    one = process(wire)
    tasks += [asyncio.create_task(one.hold("m")), asyncio.create_task(one.begin("n", Change.LOAD))]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in done)
    tasks.clear()
    await asyncio.sleep(2.5)
    records = await one.records()
    assert records["m"].holders == 0
    assert records["n"].changing is None
    await one.close()


@virtual
async def test_close_gives_everything_back_and_refuses_from_then_on() -> None:
    wire = Wire()
    one = process(wire)
    await one.hold("m")
    await one.begin("n", Change.LOAD)
    waits = asyncio.create_task(one.hold("o"))
    await asyncio.sleep(0)
    await one.close()
    with pytest.raises(TritonUnavailable, match="about to end"):
        await waits
    with pytest.raises(TritonUnavailable, match="about to end"):
        await one.hold("m")
    one.drop("m")
    await one.end("n", Change.LOAD, ok=True)
    await one.close()
    other = process(wire)
    records = await other.records()
    assert records["m"].holders == 0
    assert records["n"].changing is None
    await other.close()


@virtual
async def test_a_table_of_nonsense_is_said_to_be_one() -> None:
    class Nonsense(Wire):
        async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
            return {"table": "x"}

    one = process(Nonsense())
    with pytest.raises(Exception, match="does not answer as it should"):
        await one.hold("m")
    await one.close()


@pytest.mark.parametrize("seed", range(8))
def test_no_unload_begins_under_a_session_whatever_the_wire_does(seed: int) -> None:
    """Some processes and a wire that fails at random; sessions and changes check one another directly."""

    async def main() -> None:
        chance = random.Random(seed)
        wire = Wire()
        sessions = {"m": 0, "n": 0}
        unloading: set[str] = set()

        async def one_process(label: str) -> None:
            leases = process(wire, label)
            for _ in range(60):
                model = chance.choice(["m", "n"])
                try:
                    if chance.random() < 0.6:
                        await leases.hold(model)
                        assert model not in unloading, "held while it is unloaded"
                        sessions[model] += 1
                        await asyncio.sleep(chance.random() * 3)
                        sessions[model] -= 1
                        leases.drop(model)
                    else:
                        await leases.begin(model, Change.UNLOAD)
                        assert not sessions[model], "unloaded under a session"
                        assert model not in unloading, "two change it"
                        unloading.add(model)
                        await asyncio.sleep(chance.random())
                        unloading.discard(model)
                        await leases.end(model, Change.UNLOAD, ok=True)
                except (TritonUnavailable, InUse):
                    await asyncio.sleep(chance.random())
            await leases.close()

        async def trouble() -> None:
            while True:
                await asyncio.sleep(chance.random() * 6)
                kind = chance.choice(["down", "mute", "hold_back", "lost"])
                if kind == "lost":
                    if not unloading:  # a new table hears of a change within a second, not at once
                        wire.lose_the_table()
                    continue
                setattr(wire, kind, True)
                await asyncio.sleep(chance.random() * 2)
                setattr(wire, kind, False)
                if kind == "hold_back":
                    late, wire.late = wire.late, []
                    for word in late:
                        await word()

        troubles = asyncio.create_task(trouble())
        await asyncio.gather(*(one_process(label) for label in "abcd"))
        troubles.cancel()
        await asyncio.gather(troubles, return_exceptions=True)
        wire.down = wire.mute = wire.hold_back = False
        await asyncio.sleep(LEASE_S + 1)  # somebody may have ended while nobody answered
        assert await holders(wire, "m") == await holders(wire, "n") == 0

    run_virtual(main())
