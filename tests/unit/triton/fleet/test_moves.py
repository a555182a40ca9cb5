"""A session while versions are rolled, models are drained, unloaded and die, and servers are lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from gateway.triton.errors import TritonUnavailable
from gateway.triton.leases.local import LocalLeases
from gateway.triton.manager.types import NotNow
from gateway.triton.routing.choose import Want
from tests.support.virtual_time import settle
from tests.unit.triton.fleet.parts import (
    SPEECH,
    Ears,
    given_back,
    recogniser,
    say,
    town,
    virtual,
    voice,
)

CHUNK = np.zeros(2_560, np.float32)


@virtual
async def test_requests_follow_a_rolled_version_and_a_long_session_keeps_no_old_one() -> None:
    disk = voice("tts_a")
    async with town(disk) as here:
        fleet, desk = await here.fleet("tts_a"), await here.fleet()
        hold = fleet.hold(SPEECH)
        await hold.take()
        running = asyncio.create_task(say(hold, 80))
        await asyncio.sleep(0.5)
        disk.there.append(2)
        (manager,) = desk.managers().values()
        await manager.load("tts_a")
        await fleet.look()
        assert await say(hold) == {2}
        assert here.only.triton.ready("tts_a") == [1, 2]
        assert await running == {1}
        await asyncio.sleep(10.0)
        assert here.only.triton.ready("tts_a") == [2]
        assert here.only.dropped_under == []
        await manager.load("tts_a", version="1")
        await fleet.look()
        assert await say(hold) == {1}
        hold.release()


@virtual
async def test_a_sequence_ends_on_the_version_that_it_began_on() -> None:
    disk = recogniser("asr_a", max_batch_size=8)
    async with town(disk) as here:
        fleet = await here.fleet("asr_a")
        hold = fleet.hold(Want("asr"))
        await hold.take()
        old = await hold.sequence()
        await old.infer(CHUNK, start=True, deadline_s=1.0)
        disk.there.append(2)
        (manager,) = fleet.managers().values()
        await manager.load("asr_a")
        assert hold.version == "2"
        new = await hold.sequence()
        answers = [await new.infer(CHUNK, start=True, end=True, deadline_s=1.0)]
        await asyncio.sleep(20.0)
        answers.append(await old.infer(CHUNK, end=True, deadline_s=1.0))
        assert [int(answer["VERSION"][0]) for answer in answers] == [2, 1]
        assert str(answers[1]["TRANSCRIPT"][0]) == "2"
        await asyncio.sleep(10.0)
        assert here.only.triton.ready("asr_a") == [2]
        assert here.only.dropped_under == []
        (server,) = fleet.servers.listed
        load = fleet.servers.figures.load(server.address, "asr_a")
        assert load.queue == 0
        assert load.p50_s == pytest.approx(0.01)
        hold.release()


@virtual
async def test_a_session_goes_on_while_an_operator_drains_its_model() -> None:
    async with town(voice("tts_a"), voice("tts_b")) as here:
        fleet = await here.fleet("tts_a", drain_s=5.0)
        hold = fleet.hold(SPEECH)
        await hold.take()
        (manager,) = fleet.managers().values()
        unloading = asyncio.create_task(manager.unload("tts_a"))
        await asyncio.sleep(1.0)
        assert await say(hold) == {1}
        assert here.only.asked == ["tts_a@1"]
        fresh = fleet.hold(replace(SPEECH, model="tts_a"))
        with pytest.raises(NotNow):
            await fresh.take()
        hold.release()
        await unloading
        assert here.only.triton.ready("tts_a") == []
        assert here.only.dropped_under == []


@virtual
async def test_a_dead_process_is_repaired_and_a_forced_unload_undone_for_the_next_sentence() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a")
        hold = fleet.hold(SPEECH)
        await say(hold)
        here.only.triton.kill("tts_a")
        assert await say(hold) == {1}
        assert len(here.only.triton.loads) == 2
        (manager,) = fleet.managers().values()
        await manager.unload("tts_a", force=True)
        assert await say(hold) == {1}
        assert len(here.only.triton.loads) == 3
        hold.release()
        await given_back(here.only, "tts_a")


@virtual
async def test_of_two_servers_the_lost_one_is_left_and_what_runs_on_the_other_stays() -> None:
    both = voice("tts_a"), recogniser("asr_a", max_batch_size=8)
    async with town(*both, addresses="127.0.0.1:1,127.0.0.2:1") as here:
        fleet, ears = await here.fleet("tts_a", "asr_a"), Ears()
        lost, well = here.machines.values()
        moving, staying = fleet.hold(SPEECH, notify=ears), fleet.hold(SPEECH)
        moved = asyncio.create_task(say(moving, 20))
        await asyncio.sleep(0.3)
        stayed = asyncio.create_task(say(staying, 40))  # the other has the shorter queue
        await asyncio.sleep(0.3)
        assert (lost.asked, well.asked) == (["tts_a@1"], ["tts_a@1"])
        listening = [fleet.hold(Want("asr")) for _ in range(2)]
        calls = []
        for hold in listening:
            await hold.take()
            calls.append(await hold.sequence())
            await calls[-1].infer(CHUNK, start=True, deadline_s=1.0)
        assert (len(lost.sequences), len(well.sequences)) == (1, 1)
        lost.triton.stop()
        assert await moved == await stayed == {1}
        assert ears.codes == ["voice_moved"]
        assert well.asked.count("tts_a@1") == 2
        answer = await calls[1].infer(CHUNK, end=True, deadline_s=1.0)
        assert str(answer["TRANSCRIPT"][0]) == "2"
        with pytest.raises(TritonUnavailable) as gone:
            await calls[0].infer(CHUNK, end=True, deadline_s=1.0)
        await listening[0].recover(gone.value)
        await listening[0].take()
        again = await listening[0].sequence()
        await again.infer(CHUNK, start=True, end=True, deadline_s=1.0)
        calls[0].give_up()
        assert well.asked.count("asr_a@1") == 2
        for hold in (moving, staying, *listening):
            hold.release()
        await given_back(well, "tts_a", "tts_a@1", "asr_a", "asr_a@1")


@virtual
async def test_models_that_cannot_be_had_end_a_take_with_the_reason() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a")
        hold = fleet.hold(SPEECH)
        await hold.take()
        here.only.triton.stop()
        with pytest.raises(TritonUnavailable):
            await say(hold)
        here.only.triton.start()
        await asyncio.sleep(5.0)
        assert await say(hold) == {1}, "it was held: it is loaded again"
        hold.release()


@virtual
async def test_sessions_leave_a_triton_that_is_drained_and_what_is_under_way_ends_there() -> None:
    addresses = ["127.0.0.1:1", "127.0.0.1:2"]
    async with town(voice("tts_a"), addresses=",".join(addresses)) as here:
        fleet = await here.fleet("tts_a", tts="tts_a")
        holds = [fleet.hold(SPEECH) for _ in range(6)]
        for hold in holds:
            await hold.take()
        sides = {address: [h for h in holds if h._taken().server.address == address] for address in addresses}
        drained, other = (here.machines[address] for address in addresses)
        assert [len(those) for those in sides.values()] == [3, 3]
        leaving = sides[addresses[0]]
        speaking = asyncio.create_task(say(leaving[0], 80))
        await asyncio.sleep(1.0)
        drain = LocalLeases(drained.wire, label="drain")
        await drain.drain(60.0)
        await asyncio.sleep(5.5)  # a third of the lease time, and then a second's linger
        await settle()
        assert drained.holders("tts_a") == 0
        assert drained.holders("tts_a@1") == 1  # the sentence
        before = len(other.asked)
        await say(leaving[1])
        assert len(other.asked) == before + 1
        fresh = fleet.hold(SPEECH)
        await fresh.take()
        assert fresh._taken().server.address == addresses[1]
        assert await speaking == {1}
        await given_back(drained, "tts_a", "tts_a@1")
        # Called off: it is used again by those who come now.
        await drain.drain(0.0)
        await drain.close()
        await fleet.look()
        await settle()
        assert {server.address for server in fleet.servers.available()} == set(addresses)
        for hold in (*holds, fresh):
            hold.release()


@virtual
async def test_where_there_is_no_other_triton_sessions_stay_with_the_one_that_is_drained() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a", tts="tts_a")
        stays, leaves = fleet.hold(SPEECH), fleet.hold(SPEECH)
        for hold in (stays, leaves):
            await hold.take()
        drain = LocalLeases(here.only.wire, label="drain")
        await drain.drain(60.0)
        leaves.release(linger_s=600.0)
        await asyncio.sleep(12.0)  # two beats
        assert here.only.holders("tts_a") == 1, "whoever drains it sees that somebody is there"
        assert await say(stays) == {1}
        with pytest.raises(TritonUnavailable):
            await fleet.hold(SPEECH).take()
        stays.release()
        await given_back(here.only, "tts_a", "tts_a@1")
        await drain.close()


@virtual
async def test_a_drain_that_nobody_ends_runs_out() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a", tts="tts_a")
        drain = LocalLeases(here.only.wire, label="drain")
        await drain.drain(20.0)
        await drain.close()
        await fleet.look()
        with pytest.raises(TritonUnavailable, match="no Triton takes calls"):
            await fleet.look()
        hold = fleet.hold(SPEECH)
        with pytest.raises(TritonUnavailable):
            await hold.take()
        await asyncio.sleep(20.5)
        assert await say(hold) == {1}
        hold.release()


@virtual
async def test_sessions_that_begin_at_once_are_spread() -> None:
    async with town(voice("tts_a"), addresses="127.0.0.1:1,127.0.0.1:2,127.0.0.1:3") as here:
        fleet = await here.fleet("tts_a", tts="tts_a")
        holds = [fleet.hold(SPEECH) for _ in range(12)]
        await asyncio.gather(*(hold.take() for hold in holds))
        assert [server.users for server in fleet.servers.listed] == [4, 4, 4]
        for hold in holds:
            hold.release()
