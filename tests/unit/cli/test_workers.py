"""Several gateway processes behind one address, with real processes and no part behind them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import split_address
from gateway.cli import workers as workers_module
from gateway.cli.common import Fault
from gateway.cli.workers import Workers, reserve
from gateway.session import events as ev
from gateway.settings import Settings
from tests.support.caller import Caller
from tests.support.processes import gone
from tests.support.raw_http import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

OVERRIDES: dict[str, Any] = {
    "listen": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2},
    "asr": {"uri": "127.0.0.1:1"},
    "tts": {"uri": "127.0.0.1:1"},
    "llm": {"base_url": "http://127.0.0.1:1/v1"},
    "session": {"drain_s": 2.0, "admit_busy": 0, "admit_lag_ms": 0, "admit_backlog_ms": 0},
}


class Pool:
    """Workers as a client and a scraper see them."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.address = workers.endpoints()["grpc"]
        self._admin, self._http = (
            split_address(workers.endpoints()[key].removeprefix("http://"))[1] for key in ("admin", "http")
        )

    async def get(self, path: str, *, public: bool = False) -> tuple[int, Any]:
        status, _, text = await request(self._http if public else self._admin, "GET", path)
        return status, json.loads(text)

    async def owners(self) -> dict[str, int]:
        """The worker of each session."""
        _, body = await self.get("/v1/sessions")
        return {session["session_id"]: session["worker"] for session in body["sessions"]}

    async def metric(self, name: str, **labels: str) -> float:
        _, _, text = await request(self._admin, "GET", "/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0

    async def until(self, name: str, value: float, within_s: float = 20.0, **labels: str) -> None:
        async with asyncio.timeout(within_s):
            while True:  # a page of numbers tells nobody when they change
                if await self.metric(name, **labels) == value:
                    return
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[Pool]:
    workers = Workers(Settings(**OVERRIDES), OVERRIDES)
    await workers.start()
    try:
        yield Pool(workers)
    finally:
        await workers.stop()


def caller(pool: Pool, session_id: str = "") -> Caller:
    return Caller(pool.address, session_id=session_id)


async def test_every_worker_gets_calls_and_they_look_like_one(pool: Pool) -> None:
    ended = await pool.metric("parley_sessions_total", reason="client")
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(caller(pool)) for _ in range(20)]
        ids = {call.client.ready.session_id for call in calls if call.client.ready is not None}
        owners = await pool.owners()
        assert set(owners) == ids
        assert set(owners.values()) == {0, 1}
        assert await pool.metric("parley_sessions_active") == 20
        by_worker = [await pool.metric("parley_worker_sessions_active", worker=str(n)) for n in (0, 1)]
        assert by_worker == [list(owners.values()).count(n) for n in (0, 1)]
        assert await pool.metric("parley_workers") == 2
        assert await pool.metric("parley_admitting") == 2
        assert await pool.metric("parley_loop_lag_seconds_count") > 0
        assert (await pool.get("/admitz"))[0] == 200
        for call in calls:
            await call.client.hang_up()
    await pool.until("parley_sessions_total", ended + 20, reason="client")
    assert await pool.owners() == {}


async def test_a_part_that_is_down_makes_it_not_ready_and_the_workers_are_a_part(pool: Pool) -> None:
    status, body = await pool.get("/readyz")
    assert status == 503
    assert body["parts"]["workers"] == {"ok": True}
    assert not body["parts"]["llm"]["ok"]
    assert "127.0.0.1:1" in body["parts"]["llm"]["error"]


async def test_the_parent_serves_openai_s_audio_itself(pool: Pool) -> None:
    status, body = await pool.get("/v1/models", public=True)
    assert status == 200
    assert "tts-1" in {model["id"] for model in body["data"]}
    status, body = await pool.get("/v1/audio/nothing", public=True)
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    assert (await pool.get("/metrics", public=True))[0] == 404


async def test_a_session_opened_again_replaces_the_one_in_another_process(pool: Pool) -> None:
    async with AsyncExitStack() as stack:
        call = await stack.enter_async_context(caller(pool, "mine"))
        first = (await pool.owners())["mine"]
        for _ in range(40):
            again = await stack.enter_async_context(caller(pool, "mine"))
            assert (await call.until(ev.Closed)).reason == "replaced"
            await call.until_over()
            owners = await pool.owners()
            assert len(owners) == 1
            call = again
            if owners["mine"] != first:
                break
        else:
            raise AssertionError("every connection went to one worker")
        await call.client.hang_up()
        await call.until_over()


async def test_a_worker_that_dies_takes_only_its_own_sessions_and_comes_back(pool: Pool) -> None:
    before = {
        reason: await pool.metric("parley_sessions_total", reason=reason)
        for reason in ("client", "worker_died")
    }
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(caller(pool)) for _ in range(16)]
        by_id = {call.client.ready.session_id: call for call in calls if call.client.ready is not None}
        owners = await pool.owners()
        victim = pool.workers._workers[0]
        lost = [by_id[session_id] for session_id, worker in owners.items() if worker == 0]
        kept = [by_id[session_id] for session_id, worker in owners.items() if worker == 1]
        assert lost
        assert kept
        os.kill(victim.pid, signal.SIGKILL)
        for call in lost:
            assert await call.until_over() is not None
        await pool.until("parley_worker_restarts_total", 1)
        await pool.until("parley_workers", 2)
        assert not any(call.over for call in kept)
        for call in kept:
            mark = call.mark()
            await call.client.send(ev.Commit())  # nothing was said: a session that lives says so
            await call.until(ev.Warning, mark)
        assert await pool.metric("parley_sessions_active") == len(kept)
        assert await pool.metric("parley_sessions_total", reason="client") == before["client"]
        died = await pool.metric("parley_sessions_total", reason="worker_died")
        assert died == before["worker_died"] + len(lost)
        late = [await stack.enter_async_context(caller(pool)) for _ in range(16)]
        assert set((await pool.owners()).values()) == {0, 1}
        for call in (*kept, *late):
            await call.client.hang_up()


async def test_a_worker_that_hangs_is_ended_and_started_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_SILENT_S", 0.3)
    monkeypatch.setattr(workers_module, "_PING_S", 0.1)
    hanging = pool.workers._workers[1]
    watching = asyncio.create_task(pool.workers._watch(hanging))
    restarts = await pool.metric("parley_worker_restarts_total")
    pid = hanging.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await gone(pid)
    finally:
        watching.cancel()
    await pool.until("parley_worker_restarts_total", restarts + 1)
    await pool.until("parley_workers", 2)


async def test_what_keeps_one_worker_from_starting_is_said_and_nothing_is_left() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        overrides = OVERRIDES | {"listen": OVERRIDES["listen"] | {"http": where}}
        with pytest.raises(OSError, match="in use"):
            await Workers(Settings(**overrides), overrides).start()
    overrides = OVERRIDES | {"log_level": "no level"}
    workers = Workers(Settings(**OVERRIDES), overrides)
    with pytest.raises(Fault, match=r"worker [01] did not start: the settings are wrong"):
        await workers.start()
    assert not any(worker.pid for worker in workers._workers)


async def test_a_port_that_others_share_already_is_taken() -> None:
    held, address = reserve("127.0.0.1:0")
    with held, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", split_address(address)[1]))
        other.listen()
        with pytest.raises(OSError, match="cannot listen on"):
            reserve(address)
