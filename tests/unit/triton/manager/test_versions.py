"""New versions beside old ones, over a fake Triton, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.errors import ProcessDied
from gateway.triton.manager.events import Kind
from gateway.triton.manager.types import LoadFailed
from tests.unit.triton.manager.fake_triton import Disk, info_of
from tests.unit.triton.manager.parts import Bench, model_of, now, virtual


def bench(**settings: object) -> Bench:
    return Bench(Disk(info_of("asr_a")), Disk(info_of("tts_a")), **settings)


@virtual
async def test_new_leases_get_the_new_version_and_old_ones_run_out() -> None:
    async with bench() as b:
        manager = await b.started()
        old = await manager.lease("asr_a")
        copy = b.triton.copy_of("asr_a", 1)
        b.catalogue.disks["asr_a"].there.append(2)
        await manager.load("asr_a")
        assert manager.version("asr_a") == "2"
        new = await manager.lease("asr_a")
        assert (old.version, new.version) == ("1", "2")
        await asyncio.sleep(600)
        assert b.triton.ready("asr_a") == [1, 2]
        assert b.triton.copy_of("asr_a", 1) == copy  # never started again: its state is alive
        fresh = b.triton.copy_of("asr_a", 2)
        old.release()
        await asyncio.sleep(10)
        assert b.triton.ready("asr_a") == [2]
        assert b.triton.copy_of("asr_a", 2) == fresh
        assert [k for k in b.kinds("asr_a") if "roll" in k] == [Kind.ROLLING, Kind.ROLLED]
        new.release()


@virtual
async def test_new_leases_get_the_old_version_until_the_new_one_answers() -> None:
    async with bench() as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        disk.load_s = 20
        roll = asyncio.create_task(manager.load("asr_a"))
        for _ in range(19):
            await asyncio.sleep(1)
            begun = now()
            with await manager.lease("asr_a") as lease:
                assert lease.version == "1"
            assert now() == begun
        await roll
        with await manager.lease("asr_a") as lease:
            assert lease.version == "2"


@virtual
async def test_another_process_keeps_the_old_version_alive_and_gets_the_new_one() -> None:
    async with bench() as b:
        manager, other = await b.started(), await b.started(keeper=False, label="two")
        held = await other.lease("asr_a")
        b.catalogue.disks["asr_a"].there.append(2)
        await manager.load("asr_a")
        with await other.lease("asr_a") as lease:  # it has not looked yet, or is told so
            assert lease.version in ("1", "2")
        await asyncio.sleep(120)
        assert b.triton.ready("asr_a") == [1, 2]
        with await other.lease("asr_a") as lease:
            assert lease.version == "2"
        held.release()
        await asyncio.sleep(30)
        assert b.triton.ready("asr_a") == [2]


@virtual
async def test_a_version_that_does_not_load_leaves_the_old_one_serving_and_says_why() -> None:
    async with bench() as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        disk.broken[2] = "ValueError: version two is broken"
        held = await manager.lease("asr_a")
        with pytest.raises(LoadFailed, match=r"version 2 of asr_a does not serve: ValueError.*; 1 goes on"):
            await manager.load("asr_a")
        with await manager.lease("asr_a") as lease:
            assert lease.version == "1"
        assert b.triton.ready("asr_a") == [1]
        assert Kind.ROLL_FAILED in b.kinds("asr_a")
        disk.broken.clear()
        await manager.load("asr_a")
        assert model_of(manager, "asr_a").serving == "2"
        held.release()


@virtual
async def test_a_version_that_loads_and_says_nothing_is_taken_out_again() -> None:
    async with bench(load_s=10) as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        disk.mute = True
        with pytest.raises(LoadFailed, match="warm-up"):
            await manager.load("asr_a")
        assert b.triton.ready("asr_a") == [1]
        assert model_of(manager, "asr_a").serving == "1"


@virtual
async def test_a_version_that_hangs_leaves_the_old_one_serving() -> None:
    async with bench(load_s=10) as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        disk.hangs.add(2)
        with pytest.raises(LoadFailed, match="1 goes on"):
            await manager.load("asr_a", deadline_s=60)
        with await manager.lease("asr_a") as lease:
            assert lease.version == "1"


@virtual
async def test_and_back_by_name_by_policy_and_by_number() -> None:
    async with bench() as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        await manager.load("asr_a")
        held = await manager.lease("asr_a")
        await manager.load("asr_a", version="1")
        with await manager.lease("asr_a") as lease:
            assert lease.version == "1"
        assert held.version == "2"
        assert 2 in b.triton.ready("asr_a")
        held.release()
        await asyncio.sleep(10)
        assert b.triton.ready("asr_a") == [1]
        disk.policy = (1,)
        await manager.load("asr_a")
        assert model_of(manager, "asr_a").serving == "1"
        disk.policy = ()
        await manager.load("asr_a")
        assert model_of(manager, "asr_a").serving == "2"


@virtual
async def test_rolled_back_while_the_old_version_runs_out_it_stays() -> None:
    async with bench() as b:
        manager = await b.started()
        held = await manager.lease("asr_a")
        copy = b.triton.copy_of("asr_a", 1)
        b.catalogue.disks["asr_a"].there.append(2)
        await manager.load("asr_a")
        await asyncio.sleep(5)
        await manager.load("asr_a", version="1")
        with await manager.lease("asr_a") as lease:
            assert lease.version == "1"
        await asyncio.sleep(30)
        assert b.triton.ready("asr_a") == [1]
        assert b.triton.copy_of("asr_a", 1) == copy
        held.release()
        await asyncio.sleep(30)
        assert b.triton.ready("asr_a") == [1]


@virtual
async def test_a_version_whose_folder_was_removed_is_left_when_nobody_uses_it() -> None:
    async with bench(drain_s=30) as b:
        manager = await b.started()
        disk = b.catalogue.disks["asr_a"]
        disk.there.append(2)
        await manager.load("asr_a")
        await asyncio.sleep(10)
        held = await manager.lease("asr_a")
        disk.there.remove(2)
        back = asyncio.create_task(manager.load("asr_a"))
        await asyncio.sleep(8)
        assert b.triton.ready("asr_a") == [2]  # only in memory, and still in use
        held.release()
        await back
        assert b.triton.ready("asr_a") == [1]
        with await manager.lease("asr_a") as lease:
            assert lease.version == "1"


@virtual
async def test_where_the_folder_cannot_be_read_triton_knows_what_is_newest() -> None:
    async with bench() as b:
        b.catalogue.readable = False
        manager = await b.started()
        held = await manager.lease("asr_a")
        copy = b.triton.copy_of("asr_a", 1)
        b.catalogue.disks["asr_a"].there.append(2)
        await manager.load("asr_a")
        with await manager.lease("asr_a") as lease:
            assert lease.version == "2"
        assert b.triton.copy_of("asr_a", 1) == copy
        held.release()
        await asyncio.sleep(10)
        assert b.triton.ready("asr_a") == [2]


@virtual
async def test_rolling_after_a_repair_starts_no_version_again() -> None:
    async with bench() as b:
        manager = await b.started()
        b.triton.kill("asr_a")
        assert await manager.suspect("asr_a", ProcessDied("dead"))
        held = await manager.lease("asr_a")
        copy = b.triton.copy_of("asr_a", 1)
        b.catalogue.disks["asr_a"].there.append(2)
        await manager.load("asr_a")
        assert b.triton.copy_of("asr_a", 1) == copy
        held.release()


@virtual
async def test_two_hundred_changes_under_leases_break_none() -> None:
    async with bench() as b:
        manager, other = await b.started(), await b.started(keeper=False)
        disk = b.catalogue.disks["asr_a"]
        disk.load_s = 0.3
        open_leases: dict[int, str] = {}
        broken: list[str] = []

        def drop(name: str, version: int) -> None:
            if str(version) in open_leases.values():
                broken.append(f"{name}@{version}")

        b.triton.on_drop = drop
        done = False

        async def call(number: int) -> int:
            calls = 0
            while not done:
                with await (manager, other)[number % 2].lease("asr_a") as lease:
                    open_leases[number] = lease.version
                    copy = b.triton.copy_of("asr_a", int(lease.version))
                    await asyncio.sleep(0.4 + 0.37 * number)
                    assert b.triton.copy_of("asr_a", int(lease.version)) == copy
                    del open_leases[number]
                calls += 1
            return calls

        calls = [asyncio.create_task(call(number)) for number in range(8)]
        for number in range(200):
            if number % 4 == 3:
                await manager.load("asr_a", version=str(disk.there[-2]))
            else:
                disk.there.append(disk.there[-1] + 1)
                await manager.load("asr_a")
            await asyncio.sleep(1)
        done = True
        assert sum(await asyncio.gather(*calls)) > 300
        assert broken == []
        await asyncio.sleep(20)
        assert len(b.triton.ready("asr_a")) == 1
