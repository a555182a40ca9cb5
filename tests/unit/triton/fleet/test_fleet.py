"""Which models a fleet offers and prefers, what its policy file must name, and one manager over several servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.triton.errors import TritonError
from gateway.triton.fleet.everywhere import Everywhere
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.manager.types import InUse, NoSuchModel, State
from gateway.triton.routing.choose import Want
from gateway.triton.routing.policy import PolicyError
from tests.unit.triton.fleet.parts import SPEECH, say, town, virtual, voice

TWO = "127.0.0.1:1,127.0.0.2:1"


async def serves(fleet: Fleet, want: Want = SPEECH) -> str:
    hold = fleet.hold(want)
    try:
        return (await hold.take()).name
    finally:
        hold.release()


@pytest.mark.parametrize("named_by", ["settings", "its config"])
def test_a_session_without_wishes_gets_the_default_also_when_another_is_less_busy(named_by: str) -> None:
    @virtual
    async def test() -> None:
        default = voice("tts_z", default=named_by == "its config")
        async with town(voice("tts_a"), default) as here:
            settings: dict[str, Any] = {"tts": "tts_z"} if named_by == "settings" else {}
            fleet = await here.fleet("tts_a", "tts_z", **settings)
            busy = [fleet.hold(SPEECH) for _ in range(5)]
            speaking = [asyncio.create_task(say(hold, 50)) for hold in busy]
            await asyncio.sleep(1.0)
            assert here.only.asked == ["tts_z@1"] * 5
            assert await serves(fleet) == "tts_z"
            assert await serves(fleet, replace(SPEECH, model="tts_a")) == "tts_a"
            await asyncio.gather(*speaking)
            for hold in busy:
                hold.release()

    test()


@virtual
async def test_a_default_gives_way_to_what_does_better_what_is_wanted() -> None:
    british = voice("tts_b", voices=("ann",))
    british.info = replace(british.info, languages=("en-GB",))
    async with town(voice("tts_z", default=True, voices=("zoe",)), british) as here:
        fleet = await here.fleet("tts_z", "tts_b")
        assert await serves(fleet, Want("tts", language="en-GB")) == "tts_b"
        assert await serves(fleet, Want("tts", language="en-US", voice="ann")) == "tts_b"
        assert await serves(fleet, Want("tts", language="en")) == "tts_z"
        assert await serves(fleet, Want("tts")) == "tts_z"


@virtual
async def test_a_default_by_config_is_not_loaded_where_another_one_serves_and_one_by_settings_is() -> None:
    async with town(voice("tts_a"), voice("tts_z", default=True)) as here:
        fleet = await here.fleet("tts_a")
        assert await serves(fleet) == "tts_a"
        assert here.only.triton.ready("tts_z") == []
        asked = await here.fleet(tts="tts_z")
        hold = asked.hold(SPEECH)
        await hold.take()
        await asyncio.sleep(5.0)
        assert (await hold.take()).name == "tts_z"
        hold.release()


def test_a_policy_file_has_its_own_order_and_names_only_models_that_are_there(tmp_path: Path) -> None:
    @virtual
    async def test() -> None:
        file = tmp_path / "routing.yaml"
        file.write_text("default: {models: {en: tts_a}}\nloud: {require: [loud]}\n")
        async with town(voice("tts_a"), voice("tts_z", default=True)) as here:
            fleet = await here.fleet("tts_a", "tts_z", policy=file)
            assert await serves(fleet) == "tts_a"
            file.write_text("default: {models: {en: tts_gone}}\n")
            with pytest.raises(PolicyError, match=r"routing.yaml: default.models.en: tts_gone is no model"):
                await here.fleet(policy=file)

    test()


@virtual
async def test_models_are_listed_once_the_resident_ones_first() -> None:
    async with town(voice("tts_a"), voice("tts_b"), addresses=TWO) as here:
        fleet = await here.fleet()
        await next(iter(fleet.managers().values())).load("tts_b")
        assert [info.name for info in fleet.models()] == ["tts_b", "tts_a"]
        none = await here.fleet(on_demand=False)
        assert [info.name for info in none.models()] == ["tts_b"]


@virtual
async def test_what_an_operator_asks_for_happens_on_every_server_that_has_the_model() -> None:
    async with town(voice("tts_a"), voice("tts_b"), addresses=TWO) as here:
        first, second = here.machines.values()
        del second.catalogue.disks["tts_b"]
        fleet = await here.fleet(drain_s=0.0)
        all_of_them = Everywhere(fleet)
        await all_of_them.load("tts_a")
        await all_of_them.load("tts_b")
        assert first.triton.ready("tts_a") == second.triton.ready("tts_a") == [1]
        assert sorted(info.name for info in all_of_them.resident()) == ["tts_a", "tts_b"]
        assert sorted(info.name for info in all_of_them.known()) == ["tts_a", "tts_b"]
        hold = fleet.hold(SPEECH)
        await hold.take()
        states = {one.info.name: one for one in await all_of_them.status()}
        assert (states["tts_a"].state, states["tts_a"].leases) == (State.READY, 1)
        with pytest.raises(InUse):
            await all_of_them.unload("tts_a")
        hold.release()
        await all_of_them.unload("tts_b")
        with await all_of_them.lease("tts_a") as lease:
            assert lease.info.name == "tts_a"
        second.catalogue.disks["tts_new"] = voice("tts_new")
        with pytest.raises(NoSuchModel, match="tts_gone"):
            await all_of_them.load("tts_gone")
        await all_of_them.load("tts_new")
        assert second.triton.ready("tts_new") == [1]


@virtual
async def test_a_status_is_what_the_servers_that_answer_say() -> None:
    async with town(voice("tts_a"), addresses=TWO) as here:
        fleet = await here.fleet("tts_a")
        gone, well = here.machines.values()
        gone.triton.stop()
        assert [one.state for one in await Everywhere(fleet).status()] == [State.READY]
        well.triton.stop()
        with pytest.raises(TritonError):
            await Everywhere(fleet).status()
