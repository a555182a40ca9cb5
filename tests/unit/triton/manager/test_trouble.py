"""The model manager over a fake Triton, in virtual time: failures, and a world that changes."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.errors import ProcessDied, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.manager.events import Kind
from gateway.triton.manager.types import InUse, LoadFailed, NotNow, Why
from tests.unit.triton.manager.parts import Bench, disks, model_of, now, virtual

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
