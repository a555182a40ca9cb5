"""The model manager over a fake Triton, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.triton.errors import ModelNotLoaded, ProcessDied, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.manager.events import Kind
from gateway.triton.manager.types import InUse, LoadFailed, NoRoom, NoSuchModel, NotNow, Progress, State, Why
from tests.unit.triton.manager.fake_triton import Disk, info_of
from tests.unit.triton.manager.parts import Bench, model_of, now, until, virtual


def disks(*names: str, **fields: int) -> list[Disk]:
    """The defaults, and these."""
    return [
        Disk(info_of("asr_a")),
        Disk(info_of("tts_a", default=True)),
        *(Disk(info_of(name, **fields)) for name in names),
    ]


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


# ---- failures ------------------------------------------------------------------------------------


@virtual
async def test_a_failed_load_is_unloaded_again_and_backed_off_and_harms_nobody() -> None:
    async with Bench(*disks("tts_b"), backoff_s=5) as bench:
        manager = await bench.started()
        disk = bench.catalogue.disks["tts_b"]
        disk.broken[1] = "SyntaxError: invalid syntax (model.py, line 3)"
        with pytest.raises(LoadFailed, match="tts_b does not load: SyntaxError"):
            await manager.lease("tts_b")
        assert "tts_b" in bench.triton.unloads
        with pytest.raises(NotNow, match="SyntaxError") as refused:
            await manager.lease("tts_b")
        assert 0 < refused.value.wait_s <= 5
        tries = []
        for _ in range(9):
            wait = model_of(manager, "tts_b").retry_at - now()
            tries.append(wait)
            await asyncio.sleep(wait + 0.1)
            with pytest.raises(LoadFailed):
                await manager.lease("tts_b")
        assert tries == pytest.approx([4, 10, 20, 40, 80, 160, 300, 300, 300], abs=1.0)
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_a"]
        disk.broken.clear()
        await manager.load("tts_b")  # an operator does not wait
        assert model_of(manager, "tts_b").failures == 0


@virtual
async def test_another_process_knows_of_a_failed_load() -> None:
    async with Bench(*disks("tts_b"), backoff_s=60) as bench:
        one, two = await bench.started(), await bench.started(keeper=False)
        bench.catalogue.disks["tts_b"].broken[1] = "OSError: nothing there"
        with pytest.raises(LoadFailed):
            await one.lease("tts_b")
        await two.look()
        with pytest.raises(NotNow, match="OSError: nothing there"):
            await two.lease("tts_b")
        assert bench.triton.loads.count("tts_b@1") == 1


@virtual
async def test_a_load_that_hangs_is_given_up_after_its_deadline() -> None:
    async with Bench(*disks("tts_b"), load_s=30) as bench:
        manager = await bench.started()
        bench.catalogue.disks["tts_b"].hangs.add(1)
        begun = now()
        with pytest.raises(LoadFailed, match="tts_b did not load within 30 s"):
            await manager.lease("tts_b", deadline_s=100)
        assert now() - begun == pytest.approx(35, abs=1)
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_a"]
        (await manager.lease("tts_a")).release()


@virtual
async def test_a_dead_process_is_noticed_and_mended_once() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        bench.triton.kill("tts_a")
        error = ProcessDied("tts_a: the model's process died")
        assert await asyncio.gather(*(manager.suspect("tts_a", error) for _ in range(5))) == [True] * 5
        assert bench.triton.loads.count("tts_a@1") == 2
        assert bench.kinds("tts_a").count(Kind.REPAIRED) == 1
        assert await manager.suspect("tts_a", error)  # it answers: nothing is done
        assert bench.triton.loads.count("tts_a@1") == 2


@virtual
async def test_a_lease_waits_for_the_repair() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        bench.triton.kill("tts_a")
        mending = asyncio.create_task(manager.suspect("tts_a", ProcessDied("dead")))
        await asyncio.sleep(0.2)
        lease = await manager.lease("tts_a")
        assert mending.done()
        assert not bench.triton.dead
        lease.release()


@virtual
async def test_a_busy_model_is_waited_for_before_it_is_loaded_again() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        disk = bench.catalogue.disks["tts_a"]
        disk.mute = True
        doubt = asyncio.create_task(manager.suspect("tts_a", TritonTimeout("no answer")))
        await asyncio.sleep(4)
        disk.mute = False
        assert await doubt
        assert bench.triton.loads.count("tts_a@1") == 1


@virtual
async def test_a_model_that_cannot_be_mended_has_failed() -> None:
    async with Bench(*disks()) as bench:
        manager = await bench.started()
        bench.triton.kill("tts_a")
        bench.catalogue.disks["tts_a"].broken[1] = "OSError: the disk is gone"
        assert not await manager.suspect("tts_a", ProcessDied("dead"))
        with pytest.raises(NotNow, match="OSError: the disk is gone"):
            await manager.lease("tts_a")


# ---- unloads -------------------------------------------------------------------------------------


@virtual
async def test_unload_in_use_waits_and_is_then_refused() -> None:
    async with Bench(*disks("tts_b"), drain_s=30) as bench:
        manager = await bench.started()
        lease = await manager.lease("tts_b")
        unload = asyncio.create_task(manager.unload("tts_b"))
        await asyncio.sleep(10)
        assert model_of(manager, "tts_b").state is State.DRAINING
        with pytest.raises(NotNow, match="about to be unloaded"):
            await manager.lease("tts_b")
        with pytest.raises(InUse, match="tts_b is in use by 1 session") as refused:
            await unload
        assert refused.value.leases == 1
        assert now() == pytest.approx(30, abs=8)
        (await manager.lease("tts_b")).release()  # it is back
        lease.release()
        assert bench.triton.unloads == []


@virtual
async def test_unload_goes_on_when_the_last_lease_ends() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager, other = await bench.started(), await bench.started(keeper=False)
        leases = [await manager.lease("tts_b"), await other.lease("tts_b")]
        unload = asyncio.create_task(manager.unload("tts_b"))
        for lease in leases:
            await asyncio.sleep(2)
            assert not unload.done()
            lease.release()
        await unload
        assert bench.triton.ready("tts_b") == []
        assert model_of(manager, "tts_b").state is State.ABSENT


@virtual
async def test_forced_it_goes_at_once() -> None:
    async with Bench(*disks("tts_b"), min_residency_s=120) as bench:
        manager = await bench.started()
        with await manager.lease("tts_b"):
            await manager.unload("tts_b", force=True)
        assert bench.triton.ready("tts_b") == []
        await manager.unload("tts_b")  # again: nothing to do
        (await manager.lease("tts_b")).release()


@virtual
async def test_a_young_model_is_not_unloaded() -> None:
    async with Bench(*disks("tts_b"), min_residency_s=120) as bench:
        manager = await bench.started()
        (await manager.lease("tts_b")).release()
        await asyncio.sleep(20)
        with pytest.raises(InUse, match="loaded a moment ago") as refused:
            await manager.unload("tts_b")
        assert refused.value.wait_s == pytest.approx(100, abs=1)
        await asyncio.sleep(101)
        await manager.unload("tts_b")


@virtual
async def test_an_unload_whose_caller_goes_is_finished() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        await manager.load("tts_b")
        bench.catalogue.disks["tts_b"].unload_s = 5.0
        unload = asyncio.create_task(manager.unload("tts_b"))
        await asyncio.sleep(1)
        unload.cancel()
        await asyncio.sleep(10)
        assert model_of(manager, "tts_b").state is State.ABSENT
        await manager.load("tts_b")


# ---- time and room -------------------------------------------------------------------------------


@virtual
async def test_idle_for_its_time_it_goes_and_not_before() -> None:
    async with Bench(*disks("tts_b"), ttl_s=600, min_residency_s=120) as bench:
        manager = await bench.started()
        lease = await manager.lease("tts_b")
        await asyncio.sleep(2_000)
        assert manager.next_eviction() is None
        lease.release()
        begun = now()
        await asyncio.sleep(300)
        name, in_s, because = manager.next_eviction() or ("", 0.0, "")
        assert (name, because) == ("tts_b", "ttl")
        assert in_s == pytest.approx(300, abs=3)
        await until(lambda: not bench.triton.ready("tts_b"))
        assert now() - begun == pytest.approx(600, abs=35)
        await asyncio.sleep(5_000)
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_a"]  # the defaults stay


@virtual
async def test_who_wants_a_model_that_just_goes_has_it_loaded_again() -> None:
    async with Bench(*disks("tts_b"), ttl_s=60) as bench:
        manager = await bench.started()
        bench.catalogue.disks["tts_b"].unload_s = 5.0
        (await manager.lease("tts_b")).release()
        await until(lambda: "tts_b" in bench.triton.unloads)
        lease = await manager.lease("tts_b")
        assert bench.triton.ready("tts_b") == [1]
        lease.release()


@virtual
async def test_a_cap_forces_the_right_victim() -> None:
    async with Bench(*disks("tts_b", "tts_c", "tts_d"), max_resident=4, ttl_s=0) as bench:
        manager = await bench.started()
        for name in ("tts_b", "tts_c"):
            (await manager.lease(name)).release()
            await asyncio.sleep(10)
        (await manager.lease("tts_b")).release()  # the least recently used is tts_c now
        await asyncio.sleep(2)
        (await manager.lease("tts_d")).release()
        assert bench.triton.unloads == ["tts_c"]
        event = next(one for one in bench.events if one.kind is Kind.EVICTED)
        assert (event.model, event.because, event.victim_of) == ("tts_c", "count", "tts_d")


@virtual
async def test_memory_is_made_room_for_without_sending_more_away_than_needed() -> None:
    big = Disk(info_of("tts_big", memory_mb=800))
    small = Disk(info_of("tts_small", memory_mb=50))
    new = Disk(info_of("tts_new", memory_mb=500))
    huge = Disk(info_of("tts_huge", memory_mb=2_000))
    async with Bench(*disks(), small, big, new, huge, max_memory_mb=1_000, ttl_s=0) as bench:
        manager = await bench.started()
        for name in ("tts_small", "tts_big"):
            (await manager.lease(name)).release()
            await asyncio.sleep(10)
        (await manager.lease("tts_new")).release()
        assert bench.triton.unloads == ["tts_big"]
        with pytest.raises(NoRoom, match="tts_huge: it needs 2000 MB, and all models together may have 1000"):
            await manager.lease("tts_huge")


@virtual
async def test_eviction_honours_minimum_residency_and_leases_and_the_cap() -> None:
    async with Bench(*disks("tts_b", "tts_c"), max_resident=3, min_residency_s=120) as bench:
        manager = await bench.started()
        lease = await manager.lease("tts_b")
        with pytest.raises(NoRoom, match=r"3 of 3 models are resident \(1 in use, 2 kept on purpose\)"):
            await manager.lease("tts_c")
        lease.release()
        await asyncio.sleep(60)
        with pytest.raises(NoRoom, match="1 loaded less than 120 s ago"):
            await manager.lease("tts_c")
        await asyncio.sleep(70)
        (await manager.lease("tts_c")).release()
        assert bench.triton.unloads == ["tts_b"]
        assert model_of(manager, "tts_c").failures == 0


@virtual
async def test_what_another_process_uses_is_no_victim() -> None:
    async with Bench(*disks("tts_b", "tts_c"), max_resident=3) as bench:
        manager, other = await bench.started(), await bench.started(keeper=False)
        lease = await other.lease("tts_b")
        with pytest.raises(NoRoom):
            await manager.lease("tts_c")
        lease.release()
        await asyncio.sleep(5)
        (await manager.lease("tts_c")).release()


@virtual
async def test_a_resident_model_of_the_language_stands_in() -> None:
    german = Disk(info_of("tts_de"))
    german.info = replace(german.info, languages=("de-DE",))
    async with Bench(*disks("tts_b"), german) as bench:
        manager = await bench.started()
        by_name = {one.name: one for one in manager.known()}
        stand_in = manager.fallback_for(by_name["tts_b"])
        assert stand_in is not None
        assert stand_in.name == "tts_a"
        assert manager.fallback_for(german.info) is None
        assert manager.fallback_for(by_name["asr_a"]) is None


# ---- the world outside ---------------------------------------------------------------------------


@virtual
async def test_a_restarted_server_gets_back_what_is_pinned_or_leased() -> None:
    async with Bench(*disks("tts_b", "tts_c")) as bench:
        manager = await bench.started()
        lease = await manager.lease("tts_b")
        (await manager.lease("tts_c")).release()
        bench.triton.stop()
        assert not await manager.suspect("tts_b", TritonUnavailable("the connection was cut"))
        assert manager.resident() == []
        await asyncio.sleep(7)
        bench.triton.start()
        await asyncio.sleep(10)
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_a", "tts_b"]
        assert bench.triton.ready("tts_c") == []
        assert bench.kinds().count(Kind.LOST) == 4
        lease.release()


@virtual
async def test_loads_and_unloads_of_others_are_taken_over() -> None:
    async with Bench(*disks("tts_b"), ttl_s=60) as bench:
        manager = await bench.started()
        await bench.triton.load("tts_b")
        await bench.triton.unload("tts_a")
        await manager.look()
        assert [one.name for one in manager.resident()] == ["asr_a", "tts_b"]
        assert model_of(manager, "tts_b").why is Why.FOUND
        assert {Kind.FOUND, Kind.LOST} <= set(bench.kinds())
        await asyncio.sleep(500)
        assert "tts_b" in [one.name for one in manager.resident()]  # not ours to send away for being idle
        (await manager.lease("tts_a")).release()


@virtual
async def test_the_index_is_looked_at_now_and_then_even_when_nothing_happens() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        await bench.triton.load("tts_b")
        await asyncio.sleep(31)
        assert "tts_b" in [one.name for one in manager.resident()]


@virtual
async def test_a_server_that_loads_by_itself_is_left_alone() -> None:
    async with Bench(*disks("tts_b")) as bench:
        for name in ("asr_a", "tts_a"):
            await bench.triton.load(name)
        bench.triton.explicit = False
        manager = await bench.started()
        (await manager.lease("tts_a")).release()
        for _ in range(2):
            with pytest.raises(TritonError, match=r"explicit"):
                await manager.lease("tts_b")
        assert bench.kinds().count(Kind.READ_ONLY) == 1
        assert "explicit" in manager.read_only


@virtual
async def test_two_managers_race_lease_against_unload() -> None:
    async with Bench(*disks("tts_b"), drain_s=0) as bench:
        one, two = await bench.started(), await bench.started(keeper=False)
        dropped: list[int] = []
        leases = 0
        bench.triton.on_drop = lambda name, version: dropped.append(leases)
        for turn in range(40):
            await two.load("tts_b")
            await asyncio.sleep(0.0007 * turn)
            lease, unload = await asyncio.gather(
                two.lease("tts_b"), one.unload("tts_b"), return_exceptions=True
            )
            if not isinstance(lease, BaseException):
                leases += 1
                assert bench.triton.ready("tts_b") == [1]
                lease.release()
                leases -= 1
            assert unload is None or isinstance(unload, InUse | NotNow)
            await asyncio.sleep(1.5)
        assert set(dropped) <= {0}


@virtual
async def test_closing_ends_who_waits_and_leaves_no_task() -> None:
    async with Bench(*disks("tts_b")) as bench:
        manager = await bench.started()
        bench.catalogue.disks["tts_b"].load_s = 50
        waiter = asyncio.create_task(manager.lease("tts_b"))
        await asyncio.sleep(1)
        await manager.close()
        with pytest.raises(TritonUnavailable, match="about to end"):
            await waiter
