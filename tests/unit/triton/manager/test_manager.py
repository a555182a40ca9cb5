"""The model manager over a fake Triton, in virtual time: the start, leases and loads."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.errors import ModelNotLoaded, TritonTimeout
from gateway.triton.manager.types import LoadFailed, NoSuchModel, Progress, State, Why
from tests.unit.triton.manager.parts import Bench, disks, model_of, now, virtual

# ---- the start -----------------------------------------------------------------------------------


@virtual
async def test_the_defaults_are_loaded_and_answer_before_the_start_is_over() -> None:
    async with Bench(*disks("tts_b", "asr_b")) as bench:
        manager = await bench.started()
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_a"]
        status = {one.info.name: one for one in await manager.status()}
        assert (status["tts_a"].why, status["tts_a"].pinned, status["tts_a"].version) == (
            Why.DEFAULT,
            True,
            "1",
        )
        assert status["tts_b"].state is State.ABSENT


@virtual
async def test_a_default_that_does_not_load_fails_the_start_with_the_reason() -> None:
    async with Bench(*disks()) as bench:
        bench.catalogue.disks["tts_a"].broken[1] = "ImportError: no module named x"
        with pytest.raises(LoadFailed, match="tts_a does not load: ImportError: no module named x"):
            await bench.started()


@virtual
async def test_a_default_that_loads_and_says_nothing_fails_the_start() -> None:
    async with Bench(*disks(), tts="tts_a", load_s=20) as bench:
        bench.catalogue.disks["tts_a"].mute = True
        with pytest.raises(LoadFailed, match=r"default tts model tts_a does not work: .*warm-up"):
            await bench.started()
        assert not bench.triton.ready("tts_a")


@virtual
async def test_without_a_named_default_the_next_best_is_taken() -> None:
    async with Bench(*disks("tts_b")) as bench:
        bench.catalogue.disks["tts_a"].broken[1] = "RuntimeError: no"
        manager = await bench.started()
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_b"]


@virtual
async def test_a_family_whose_models_all_have_problems_fails_the_start() -> None:
    async with Bench(*disks()) as bench:
        bench.catalogue.bad["tts_a"] = "tts_a/config.pbtxt:3: it is none"
        with pytest.raises(LoadFailed, match=r"no tts model works: tts_a/config.pbtxt:3"):
            await bench.started()


@virtual
async def test_a_preload_that_fails_is_reported_and_no_more() -> None:
    async with Bench(*disks("tts_b", "tts_c"), preload=("tts_b", "tts_c", "tts_none")) as bench:
        bench.catalogue.disks["tts_b"].broken[1] = "OSError: no such file"
        manager = await bench.started()
        assert "tts_c" in [one.name for one in manager.resident()]
        assert any("tts_b does not load: OSError: no such file" in one for one in bench.reasons())
        assert any("there is no model tts_none" in one for one in bench.reasons())


@virtual
async def test_who_is_no_keeper_loads_nothing_ahead_and_unloads_nothing() -> None:
    async with Bench(*disks(), ttl_s=60) as bench:
        manager = await bench.started(keeper=False)
        assert manager.resident() == []
        (await manager.lease("tts_a")).release()
        await asyncio.sleep(1_000)
        assert [one.name for one in manager.resident()] == ["tts_a"]


# ---- leases and loads ----------------------------------------------------------------------------


@virtual
async def test_two_concurrent_first_loads_make_one_load() -> None:
    async with Bench(*disks("tts_b")) as bench:
        one, two = await bench.started(), await bench.started(label="two", keeper=False)
        waiters = [one.lease("tts_b"), one.lease("tts_b"), two.lease("tts_b"), two.lease("tts_b")]
        leases = await asyncio.gather(*waiters)
        assert bench.triton.loads.count("tts_b@1") == 1
        assert [lease.version for lease in leases] == ["1"] * 4


@virtual
async def test_a_waiter_is_told_how_far_it_is_and_has_its_own_deadline() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        bench.catalogue.disks["tts_b"].load_s = 5.0
        seen: list[Progress] = []
        patient = asyncio.create_task(manager.lease("tts_b", on_progress=seen.append))
        begun = now()
        with pytest.raises(TritonTimeout, match="tts_b is still being loaded"):
            await manager.lease("tts_b", deadline_s=2.0)
        assert now() - begun == pytest.approx(2.0)
        lease = await patient  # the load went on
        assert lease.version == "1"
        assert seen[0].state is State.LOADING
        assert [round(one.elapsed_s) for one in seen][1:4] == [1, 2, 3]
        assert seen[-1].state is State.READY


@virtual
async def test_loading_does_not_stall_others() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        bench.catalogue.disks["tts_b"].load_s = 60.0
        slow = asyncio.create_task(manager.lease("tts_b"))
        await asyncio.sleep(1.0)
        begun = now()
        (await manager.lease("tts_a")).release()
        assert now() == begun
        assert len(await manager.status()) == 3
        assert not slow.done()
        (await slow).release()


@virtual
async def test_load_and_unload_are_neutral_to_the_count_of_leases() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        for _ in range(3):
            await manager.load("tts_b")
            await manager.unload("tts_b")
        assert model_of(manager, "tts_b").leases == 0
        lease = await manager.lease("tts_b")
        await manager.load("tts_b")
        assert model_of(manager, "tts_b").leases == 1
        lease.release()
        assert model_of(manager, "tts_b").leases == 0


@virtual
async def test_a_lease_released_twice_counts_once() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        one, two = await manager.lease("tts_a"), await manager.lease("tts_a")
        one.release()
        one.release()
        assert model_of(manager, "tts_a").leases == 1
        with two:
            pass
        assert model_of(manager, "tts_a").leases == 0


@virtual
async def test_at_most_so_many_loads_at_once() -> None:
    names = [f"tts_{number}" for number in range(6)]
    async with Bench(*disks(*names), max_loads=2) as bench:
        manager, other = await bench.started(), await bench.started(keeper=False)
        waiters = [(manager, other)[number % 2].lease(name) for number, name in enumerate(names)]
        await asyncio.gather(*waiters)
        assert bench.triton.most_starting == 2


@virtual
async def test_without_loads_on_demand_only_what_is_there_is_leased() -> None:
    async with Bench(*disks("tts_b"), on_demand=False) as bench:
        manager = await bench.started()
        with pytest.raises(ModelNotLoaded, match="on_demand is off"):
            await manager.lease("tts_b")
        await manager.load("tts_b")
        (await manager.lease("tts_b")).release()


@virtual
async def test_a_name_that_nobody_has() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        with pytest.raises(NoSuchModel, match="no model tts_x; there are: asr_a, tts_a"):
            await manager.lease("tts_x")
        with pytest.raises(NoSuchModel):
            await manager.load("parley_leases")
        with pytest.raises(NoSuchModel):
            await manager.unload("parley_leases", force=True)
        bench.catalogue.bad["tts_y"] = "tts_y has no model.py"
        with pytest.raises(LoadFailed, match=r"tts_y has no model\.py"):
            await manager.lease("tts_y")
