"""What a session's hold promises: its model stays, it is told when it gets another, and nothing is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.triton.errors import ModelFull, TritonUnavailable
from gateway.triton.manager.types import InUse, LoadFailed, NotNow
from gateway.triton.routing.choose import NothingFits
from gateway.triton.routing.policy import PolicyError
from gateway.triton.routing.session_rule import SwitchRefused
from tests.unit.triton.fleet.parts import (
    SPEECH,
    Ears,
    given_back,
    say,
    town,
    virtual,
    voice,
)

B = replace(SPEECH, model="tts_b")


@virtual
async def test_a_held_model_is_not_unloaded_and_a_released_one_is() -> None:
    async with town(voice("tts_a")) as here:
        mine, other = await here.fleet("tts_a", drain_s=0.0), await here.fleet(drain_s=0.0)
        hold = mine.hold(SPEECH)
        await hold.take()
        (desk,) = other.managers().values()
        with pytest.raises(InUse, match="process 0"):
            await desk.unload("tts_a")
        assert await say(hold) == {1}
        hold.release()
        await given_back(here.only, "tts_a", "tts_a@1")
        await desk.unload("tts_a")
        assert here.only.triton.unloads == ["tts_a"]


@virtual
async def test_whatever_moment_a_take_is_cancelled_nothing_is_held() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a")
        (server,) = fleet.servers.listed
        for steps in range(40):
            hold = fleet.hold(SPEECH)
            taking = asyncio.create_task(hold.take())
            for _ in range(steps):
                await asyncio.sleep(0)
            done = taking.done()
            taking.cancel()
            await asyncio.wait({taking})
            hold.release()
            await given_back(here.only, "tts_a")
            assert server.users == 0
            (manager,) = fleet.managers().values()
            assert [status.leases for status in manager.seen()] == [0]
        assert done, "the last ones were not cancelled in the middle"


@virtual
async def test_a_take_that_waits_for_a_load_is_cancelled_or_outlived_by_nobody() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet()
        cancelled, released = fleet.hold(SPEECH), fleet.hold(SPEECH)
        takes = [asyncio.create_task(hold.take()) for hold in (cancelled, released)]
        await asyncio.sleep(0.5)
        takes[0].cancel()
        released.release()
        await asyncio.wait(takes)
        with pytest.raises(TritonUnavailable, match="has ended"):
            takes[1].result()
        await asyncio.sleep(2.0)
        assert here.only.triton.ready("tts_a") == [1], "the load itself goes on"
        await given_back(here.only, "tts_a")


@virtual
async def test_another_model_only_where_the_session_asks_for_the_switch() -> None:
    async with town(voice("tts_a"), voice("tts_b")) as here:
        fleet = await here.fleet("tts_a", "tts_b")
        hold = fleet.hold(replace(SPEECH, model="tts_a"))
        await hold.take()
        with pytest.raises(SwitchRefused, match="ask for the switch"):
            hold.change(B, switch=False)
        with pytest.raises(NothingFits):
            hold.change(replace(SPEECH, language="fr-FR"), switch=True)
        with pytest.raises(PolicyError):
            hold.change(SPEECH, "nonsense", switch=True)
        assert (hold.want.model, (await hold.take()).name) == ("tts_a", "tts_a")
        hold.change(B, switch=True)
        assert (await hold.take()).name == "tts_b"
        await given_back(here.only, "tts_a")
        hold.release()


@virtual
async def test_a_stand_in_serves_until_the_wanted_model_is_loaded_and_the_session_is_told_once() -> None:
    async with town(voice("tts_a"), voice("tts_b")) as here:
        fleet, ears = await here.fleet("tts_a"), Ears()
        hold = fleet.hold(B, notify=ears)
        assert (await hold.take()).name == "tts_a"
        for _ in range(3):
            await say(hold, 1)
        assert ears.codes == ["voice_loading"]
        assert "tts_a serves meanwhile" in ears.notices[0][1]
        sentence = asyncio.create_task(say(hold, 30))
        await asyncio.sleep(2.0)
        assert ears.codes == ["voice_loading", "voice_ready"]
        assert hold.info is not None
        assert hold.info.name == "tts_a", "between two takes it stays what it is"
        assert (await hold.take()).name == "tts_b"
        await sentence
        await say(hold)
        assert here.only.asked == ["tts_a@1"] * 4 + ["tts_b@1"]
        await given_back(here.only, "tts_a")
        hold.release()
        await given_back(here.only, "tts_b")


@virtual
async def test_a_wanted_model_that_fails_leaves_the_stand_in_and_is_not_tried_again() -> None:
    bad = voice("tts_b")
    bad.broken = {1: "a file is missing"}
    async with town(voice("tts_a"), bad) as here:
        fleet, ears = await here.fleet("tts_a", backoff_s=1.0), Ears()
        hold = fleet.hold(B, notify=ears)
        for _ in range(4):
            await say(hold)
            await asyncio.sleep(5.0)
        assert ears.codes == ["voice_loading", "voice_failed"]
        assert "a file is missing; tts_a goes on" in ears.notices[1][1]
        assert here.only.triton.loads.count("tts_b@1") == 1
        assert hold.wanted == "tts_a"
        here.only.triton.kill("tts_a")
        assert await say(hold) == {1}
        assert here.only.asked[-1] == "tts_a@1"
        assert here.only.triton.loads.count("tts_b@1") == 1
        bad.broken.clear()
        hold.change(B, switch=True)
        await say(hold)
        await asyncio.sleep(5.0)
        assert (await hold.take()).name == "tts_b"
        hold.release()


@virtual
async def test_without_stand_ins_the_load_is_waited_for_and_its_failure_told_each_time() -> None:
    bad = voice("tts_c")
    bad.broken = {1: "a file is missing"}
    async with town(voice("tts_a"), voice("tts_b"), bad) as here:
        fleet, ears = await here.fleet("tts_a", fallback=False), Ears()
        hold = fleet.hold(B, notify=ears)
        assert (await hold.take()).name == "tts_b"
        hold.release()
        lame = fleet.hold(replace(SPEECH, model="tts_c"), notify=ears)
        with pytest.raises(LoadFailed, match="a file is missing"):
            await lame.take()
        with pytest.raises(NotNow, match="a file is missing"):
            await lame.take()
        assert ears.notices == []
        lame.release()


@pytest.mark.parametrize("fallback", [True, False])
def test_a_held_model_that_does_not_come_back_is_replaced_only_where_stand_ins_are_wanted(
    fallback: bool,
) -> None:
    @virtual
    async def test() -> None:
        bad = voice("tts_b")
        async with town(voice("tts_a"), bad) as here:
            fleet, ears = await here.fleet("tts_a", "tts_b", fallback=fallback), Ears()
            hold = fleet.hold(B, notify=ears)
            await say(hold)
            bad.broken = {1: "a file is missing"}
            (manager,) = fleet.managers().values()
            await manager.unload("tts_b", force=True)
            if fallback:
                await say(hold)
                await asyncio.sleep(5.0)
                assert ears.codes == ["voice_loading", "voice_failed"]
                assert here.only.asked[-1] == "tts_a@1"
            else:
                for kind in (LoadFailed, NotNow):
                    with pytest.raises(kind, match="a file is missing"):
                        await say(hold)
                assert ears.notices == []
            hold.release()

    test()


@virtual
async def test_without_loads_on_demand_only_resident_models_are_there() -> None:
    async with town(voice("tts_a"), voice("tts_b")) as here:
        fleet = await here.fleet("tts_a", on_demand=False)
        hold = fleet.hold(SPEECH)
        assert (await hold.take()).name == "tts_a"
        hold.release()
        with pytest.raises(NothingFits, match="no tts model tts_b: there is tts_a"):
            await fleet.hold(B).take()


@virtual
async def test_a_deadline_counts_for_all_tries_together() -> None:
    slow = voice("tts_a"), voice("tts_b")
    for disk in slow:
        disk.load_s = 60.0
    async with town(*slow) as here:
        fleet = await here.fleet()
        hold = fleet.hold(SPEECH)
        since = asyncio.get_running_loop().time()
        with pytest.raises(TritonUnavailable):
            await hold.take(deadline_s=3.0)
        assert asyncio.get_running_loop().time() - since < 3.2
        hold.release()


@virtual
async def test_a_model_that_has_enough_in_hand_says_so_at_once() -> None:
    async with town(voice("tts_a", max_sequences=1)) as here:
        fleet = await here.fleet("tts_a")
        one, other = fleet.hold(SPEECH), fleet.hold(SPEECH)
        speaking = asyncio.create_task(say(one, 5))
        await asyncio.sleep(0.2)
        with pytest.raises(ModelFull):
            await say(other)
        await speaking
        assert await say(other) == {1}
        for hold in (one, other):
            hold.release()
        await given_back(here.only, "tts_a", "tts_a@1")


@virtual
async def test_a_hold_lingers_and_then_lets_go() -> None:
    async with town(voice("tts_a")) as here:
        fleet = await here.fleet("tts_a")
        hold = fleet.hold(SPEECH)
        await hold.take()
        hold.release(linger_s=30.0)
        await asyncio.sleep(29.0)
        assert here.only.holders("tts_a") == 1
        await given_back(here.only, "tts_a")


@virtual
async def test_a_change_of_mind_calls_off_what_is_under_way() -> None:
    a, b = voice("tts_a"), voice("tts_b")
    a.load_s = b.load_s = 30.0
    async with town(a, b, voice("tts_c")) as here:
        fleet, ears = await here.fleet("tts_c"), Ears()
        hold = fleet.hold(replace(SPEECH, model="tts_a"), notify=ears)
        await say(hold)
        hold.change(B, switch=True)
        await say(hold)
        hold.change(replace(SPEECH, model="tts_c"), switch=True)
        await asyncio.sleep(100.0)
        assert (await hold.take()).name == "tts_c"
        assert ears.codes == ["voice_loading", "voice_loading"]
        hold.release()
        await given_back(here.only, "tts_a", "tts_b", "tts_c")


@virtual
async def test_a_change_while_the_first_model_is_still_loaded_is_heard() -> None:
    slow = voice("tts_a")
    slow.load_s = 60.0
    async with town(slow, voice("tts_b")) as here:
        fleet = await here.fleet(fallback=False)
        hold = fleet.hold(replace(SPEECH, model="tts_a"))
        taking = asyncio.create_task(hold.take())
        await asyncio.sleep(1.0)
        hold.change(B, switch=True)
        async with asyncio.timeout(5.0):
            assert (await taking).name == "tts_b"
        await asyncio.sleep(60.0)
        assert here.only.holders("tts_a") == 0
        hold.release()
