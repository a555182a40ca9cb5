"""Credentials over several worker processes: limits hold over all of them, and they take each other's secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.worker_limits import SharedLimits
from gateway.cli.workers import Workers
from gateway.identity import Caller, Denied
from gateway.identity.keys import KeyRecord, digest, write_keys
from gateway.settings import Settings
from tests.unit.cli.test_workers import OVERRIDES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Pool:
    workers: Workers
    grpc: str
    http: str
    admin: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys = [
        KeyRecord("three", digest("three"), max_sessions=3),
        KeyRecord("six", digest("six"), per_minute=6),
        KeyRecord("free", digest("free")),
        KeyRecord("boss", digest("boss"), ("admin",)),
    ]
    file.write_text(write_keys(keys))
    overrides: dict[str, Any] = OVERRIDES | {"auth": {"keys": str(file)}}
    workers = Workers(Settings(**overrides), overrides)
    await workers.start()
    try:
        found = workers.endpoints()
        yield Pool(workers, found["grpc"], found["http"], found["admin"])
    finally:
        await workers.stop()


async def start(pool: Pool, key: str, stack: AsyncExitStack) -> str:
    client = VoiceClient(pool.grpc, api_key=key)
    try:
        await stack.enter_async_context(client)
    except CallFailed as failed:
        return failed.status.name if failed.status else str(failed)
    return "in"


async def owners(pool: Pool) -> list[int]:
    headers = {"authorization": "Bearer boss"}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{pool.admin}/v1/sessions", headers=headers) as answer,
    ):
        return [session["worker"] for session in (await answer.json())["sessions"]]


async def until_empty(pool: Pool) -> None:
    async with asyncio.timeout(10):
        while await owners(pool):
            pass


async def test_a_limit_holds_over_all_workers(pool: Pool) -> None:
    for _ in range(2):  # the second time what the first one held is free again
        async with AsyncExitStack() as stack:
            answers = await asyncio.gather(*(start(pool, "three", stack) for _ in range(12)))
            assert sorted(answers) == ["RESOURCE_EXHAUSTED"] * 9 + ["in"] * 3
        await until_empty(pool)
    async with AsyncExitStack() as stack:
        answers = await asyncio.gather(*(start(pool, "six", stack) for _ in range(12)))
        assert answers.count("in") == 6
    await until_empty(pool)


async def test_what_the_parent_seals_the_workers_open(pool: Pool) -> None:
    headers = {"authorization": "Bearer free"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{pool.http}/v1/realtime/client_secrets", headers=headers, json={}) as answer,
    ):
        secret = (await answer.json())["value"]
    async with AsyncExitStack() as stack:
        assert {await start(pool, secret, stack) for _ in range(12)} == {"in"}
        assert set(await owners(pool)) == {0, 1}
        assert await start(pool, "", stack) == "UNAUTHENTICATED"
    await until_empty(pool)


async def test_a_worker_that_dies_gives_back_what_it_held(pool: Pool) -> None:
    async with AsyncExitStack() as stack:
        assert [await start(pool, "three", stack) for _ in range(4)] == ["in"] * 3 + ["RESOURCE_EXHAUSTED"]
        for worker in pool.workers._workers:
            worker.kill()
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        answers: list[str] = []
        while answers.count("in") < 3:
            answers.append(await start(pool, "three", stack))
            await asyncio.sleep(0.05)
        assert await start(pool, "three", stack) == "RESOURCE_EXHAUSTED"


async def test_a_call_that_is_let_in_too_late_is_given_back() -> None:
    from gateway.cli.worker_limits import ParentCounts

    shared, told = SharedLimits(), []

    class Worker:
        def tell(self, message: Any) -> None:
            told.append(message)

    class Link:
        def send(self, message: Any) -> None:
            sent.append(message)

    sent: list[Any] = []
    worker: Any = Worker()
    link: Any = Link()
    counts = ParentCounts(link)
    one = Caller("one", "key:one", frozenset(), 1)
    waiting = asyncio.create_task(counts.enter(one))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    shared.on_message(worker, sent.pop())
    with pytest.raises(Denied):
        shared.limits.enter_now(one)
    counts.on_answer(told.pop())
    shared.on_message(worker, sent.pop())
    shared.limits.enter_now(one)
