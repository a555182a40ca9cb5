"""Requests on a model that their session holds: each holds the version that serves, until it is over."""

from __future__ import annotations

import pytest

from gateway.triton.errors import ModelNotLoaded, TritonUnavailable
from tests.unit.triton.manager.parts import Bench, model_of, virtual


@virtual
async def test_a_request_is_counted_until_it_is_over_here_and_in_the_table() -> None:
    async with Bench() as bench:
        manager = await bench.started()
        request = await manager.request("tts_a")
        model = model_of(manager, "tts_a")
        assert (request.version, model.leases_of("1")) == ("1", 1)
        leases = manager._core.leases
        assert (await leases.records())["tts_a@1"].holders == 1
        request.release()
        assert model.leases_of("1") == 0
        assert (await leases.records())["tts_a@1"].holders == 0


@virtual
async def test_a_request_on_a_model_that_goes_meanwhile_holds_nothing() -> None:
    async with Bench() as bench:
        manager = await bench.started()
        core, resident = manager._core, model_of(manager, "tts_a")
        hold = core.leases.hold

        async def goes(model: str) -> None:
            await hold(model)
            resident.versions = ()

        core.leases.hold = goes  # type: ignore[method-assign]
        with pytest.raises(ModelNotLoaded, match=r"tts_a is not loaded any more"):
            await manager.request("tts_a")
        assert resident.leases == 0
        assert (await core.leases.records())["tts_a@1"].holders == 0


@virtual
async def test_a_lease_of_which_half_is_refused_holds_nothing() -> None:
    async with Bench() as bench:
        manager = await bench.started()
        core = manager._core
        hold = core.leases.hold

        async def half(model: str) -> None:
            if "@" in model:
                raise TritonUnavailable("the lease table does not answer")
            await hold(model)

        core.leases.hold = half  # type: ignore[method-assign]
        with pytest.raises(TritonUnavailable, match=r"the lease table does not answer"):
            await manager.lease("tts_a")
        assert model_of(manager, "tts_a").leases == 0
        assert (await core.leases.records())["tts_a"].holders == 0
