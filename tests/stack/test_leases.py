"""The lease table in the real server: brought in, fought over, killed, forgotten, and closed to others."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError
from gateway.triton.leases.client import Change, TritonLeases
from gateway.triton.manager.types import InUse, NotNow
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton
from tests.support.stack import TEST_MODELS, Stack, skip_without_triton

pytestmark = pytest.mark.stack

ROUNDS = 2_000
TABLE = "parley_leases"


@pytest.fixture(scope="module")
def server() -> Iterator[Stack]:
    """No model is loaded at first."""
    skip_without_triton()
    with Stack([], repositories=(TEST_MODELS,)) as stack:
        yield stack


@asynccontextmanager
async def processes(address: str, count: int, *, key: str = "") -> AsyncIterator[list[TritonLeases]]:
    """As many clients with connections of their own."""
    async with AsyncExitStack() as cleanup:
        made = []
        for number in range(count):
            channel = open_channel(address)
            cleanup.push_async_callback(channel.close)
            leases = TritonLeases(channel, key=key, label=f"process {number}")
            cleanup.push_async_callback(leases.close)
            made.append(leases)
        yield made


def kill_table(stack: Stack) -> None:
    for pid in stack.triton.stub_pids()[TABLE]:
        os.kill(pid, signal.SIGKILL)


async def test_processes_that_install_at_the_same_time_share_one_table(server: Stack) -> None:
    async with processes(server.triton.grpc, 4) as made:
        await asyncio.gather(*(one.start() for one in made))
        for number, one in enumerate(made):
            await one.hold(f"m{number}")
        records = await made[0].records()
        assert {name for name, record in records.items() if record.holders} == {"m0", "m1", "m2", "m3"}
        # Nothing else was loaded on this server, so that nobody can hold what the table does not know.
        await made[0].begin("free", Change.UNLOAD)
        await made[0].end("free", Change.UNLOAD, ok=True)
        assert len(server.triton.stub_pids()[TABLE]) == 1


async def test_of_a_hold_and_an_unload_at_the_same_time_exactly_one_wins(server: Stack) -> None:
    async with processes(server.triton.grpc, 2) as (holder, unloader):
        await asyncio.gather(holder.start(), unloader.start())
        holds = 0
        for number in range(ROUNDS):
            model = f"race{number}"
            attempts = [holder.hold(model), unloader.begin(model, Change.UNLOAD)]
            order = 1 if number % 2 else -1
            outcome = (await asyncio.gather(*attempts[::order], return_exceptions=True))[::order]
            if outcome[0] is None:
                assert isinstance(outcome[1], InUse), outcome
                holds += 1
                holder.drop(model)
            else:
                assert isinstance(outcome[0], NotNow), outcome
                assert outcome[1] is None, outcome
                await unloader.end(model, Change.UNLOAD, ok=True)
        assert ROUNDS * 0.05 < holds < ROUNDS * 0.95, "this was no race"


async def test_a_table_whose_process_was_killed_is_repaired_and_told_again(server: Stack) -> None:
    async with processes(server.triton.grpc, 3) as (holder, other, third):
        await holder.hold("m")
        await other.hold("n")
        kill_table(server)
        outcomes = await asyncio.gather(
            *(one.begin("m", Change.UNLOAD) for one in (other, third)), return_exceptions=True
        )
        assert all(isinstance(one, (NotNow, InUse)) for one in outcomes), outcomes
        records = await holder.records()
        assert records["m"].labels == ("process 0",)
        assert records["n"].labels == ("process 1",)
        with pytest.raises(InUse):
            await other.begin("m", Change.UNLOAD)


async def test_a_table_that_somebody_unloaded_comes_back(server: Stack) -> None:
    async with processes(server.triton.grpc, 2) as (holder, other):
        await holder.hold("m")
        channel = open_channel(server.triton.grpc)
        await Repository(channel).unload(TABLE)
        await channel.close()
        await holder.records()
        with pytest.raises(InUse):
            await other.begin("m", Change.UNLOAD)


async def test_after_a_restart_of_the_server_holders_tell_a_new_table(server: Stack) -> None:
    async with processes(server.triton.grpc, 2) as (holder, other):
        await holder.hold("m")
        os.kill(server.triton.pid, signal.SIGKILL)
        await asyncio.to_thread(server.wait_event, "Triton ended")
        await asyncio.to_thread(server.wait_event, "Triton answers")
        await holder.records()
        with pytest.raises(InUse):
            await other.begin("m", Change.UNLOAD)
    assert not server.triton.failed
    assert not server.triton.ready, "the table is nobody's model"


async def test_a_table_that_many_bring_in_is_brought_in_once(tmp_path: Path) -> None:
    """A copy that is refused stays among Triton's live models for ever: the server would end with an error."""
    skip_without_triton()
    triton = EmbeddedTriton([TEST_MODELS], log_dir=tmp_path / "one", exit_s=8)
    async with triton, processes(triton.grpc, 4) as made:
        await asyncio.gather(*(one.start() for one in made))
    log = (tmp_path / "one" / "triton.log").read_text()
    assert log.count("TRITONBACKEND_ModelInstanceInitialize") == 1
    assert "Found 0 live models" in log, log[-3_000:]
    assert "failed to stop server" not in log, log[-3_000:]


async def test_a_table_whose_process_died_is_replaced_once(tmp_path: Path) -> None:
    skip_without_triton()
    triton = EmbeddedTriton([TEST_MODELS], log_dir=tmp_path, exit_s=1)
    async with triton, processes(triton.grpc, 4) as made:
        for one in made:
            await one.start()
        for pid in triton.stub_pids()[TABLE]:
            os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.gather(
            *(one.begin("m", Change.UNLOAD) for one in made), return_exceptions=True
        )
        assert all(isinstance(one, NotNow) for one in outcomes), outcomes
    assert (tmp_path / "triton.log").read_text().count("TRITONBACKEND_ModelInstanceInitialize") == 2


async def test_a_restricted_server_lets_only_the_key_bring_the_table_in(tmp_path: Path) -> None:
    skip_without_triton()
    triton = EmbeddedTriton(
        [TEST_MODELS], models=["asr_count"], log_dir=tmp_path, exit_s=2, restricted_key="Parley=open sesame"
    )
    async with triton, processes(triton.grpc, 1) as (guest,):
        with pytest.raises(TritonError, match="restricted"):
            await guest.hold("m")
        async with processes(triton.grpc, 1, key="Parley=open sesame") as (owner,):
            await owner.start()
            await guest.hold("m")
            with pytest.raises(InUse):
                await owner.begin("m", Change.UNLOAD)
            with pytest.raises(NotNow, match="the lease table is new"):
                await owner.begin("asr_count", Change.UNLOAD)
            guest.drop("m")
        channel = open_channel(triton.grpc)
        with pytest.raises(TritonError, match="restricted"):
            await Repository(channel, "parley=wrong").index()
        with pytest.raises(TritonError, match="restricted"):
            await Repository(channel).unload("asr_count")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            await asyncio.to_thread(
                urllib.request.urlopen, f"{triton.http}/v2/repository/index", data=b"{}", timeout=5
            )
        names = {model.name for model in await Repository(channel, "parley=open sesame").index()}
        assert "asr_count" in names
        await channel.close()
