"""The model manager over a fake Triton, in virtual time: unloads, idle time, and room for others."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.manager.events import Kind
from gateway.triton.manager.types import InUse, NoRoom, NotNow, State
from tests.unit.triton.manager.fake_triton import Disk, info_of
from tests.unit.triton.manager.parts import Bench, disks, model_of, now, until, virtual

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
        assert refused.value.leases == 0
        lease = await manager.lease("tts_b")
        with pytest.raises(InUse, match=r"loaded a moment ago.*in use, too: 1 lease\)") as refused:
            await manager.unload("tts_b")
        assert refused.value.leases == 1
        lease.release()
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
