"""Models that call others in their server: those come first, and stay as long."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.manager.events import Kind
from gateway.triton.manager.types import InUse, LoadFailed, NotNow, State, Why
from tests.unit.triton.manager.fake_triton import Disk, info_of
from tests.unit.triton.manager.parts import Bench, disks, model_of, until, virtual

FRONT, GRAPHS = "tts_front", ("graph_encoder", "graph_decoder")


def front(*needs: str) -> list[Disk]:
    graphs = [Disk(info_of(name)) for name in GRAPHS]
    return [*disks(), *graphs, Disk(info_of(FRONT, needs_models=needs or GRAPHS))]


@virtual
async def test_what_a_front_calls_is_loaded_before_it() -> None:
    async with Bench(*front(), max_loads=1) as bench:
        manager = await bench.started()
        bench.triton.loads.clear()
        with await manager.lease(FRONT):
            assert [name.partition("@")[0] for name in bench.triton.loads] == [*GRAPHS, FRONT]
            assert model_of(manager, GRAPHS[0]).why is Why.NEEDED


@virtual
async def test_what_a_front_calls_stays_while_the_front_does() -> None:
    async with Bench(*front(), ttl_s=60) as bench:
        manager = await bench.started()
        with await manager.lease(FRONT):
            with pytest.raises(InUse, match="graph_encoder is called by tts_front"):
                await manager.unload(GRAPHS[0])
            await asyncio.sleep(300)
            assert model_of(manager, GRAPHS[0]).state is State.READY
        await until(lambda: model_of(manager, FRONT).state is State.ABSENT)
        await until(lambda: not any(bench.triton.ready(name) for name in GRAPHS))
        order = [name.partition("@")[0] for name in bench.triton.unloads]
        assert order[0] == FRONT
        assert set(order[1:]) == set(GRAPHS)


@virtual
async def test_another_manager_keeps_them_too() -> None:
    async with Bench(*front()) as bench:
        manager, other = await bench.started(), await bench.started(keeper=False)
        with await manager.lease(FRONT), pytest.raises(InUse, match="called by tts_front"):
            await other.unload(GRAPHS[1])


@virtual
async def test_a_graph_that_does_not_load_fails_its_front_and_says_which() -> None:
    async with Bench(*front()) as bench:
        bench.catalogue.disks[GRAPHS[1]].broken[1] = "no such operator"
        manager = await bench.started()
        with pytest.raises(LoadFailed, match=r"tts_front needs graph_decoder: .*no such operator"):
            await manager.lease(FRONT)
        assert Kind.LOAD_FAILED in bench.kinds(FRONT)
        with pytest.raises(NotNow, match="tried again in"):  # and is not tried at once again
            await manager.lease(FRONT)


@virtual
async def test_a_graph_that_nobody_has_is_said() -> None:
    async with Bench(*front("graph_nowhere")) as bench:
        manager = await bench.started()
        with pytest.raises(LoadFailed, match=r"tts_front needs graph_nowhere: .*in no model repository"):
            await manager.lease(FRONT)


@virtual
async def test_a_front_that_needs_itself_does_not_wait_for_ever() -> None:
    async with Bench(*front(FRONT)) as bench:
        manager = await bench.started()
        with pytest.raises(LoadFailed, match="needs tts_front: it cannot need itself"):
            await manager.lease(FRONT)
