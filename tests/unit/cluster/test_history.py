"""Histories in a real Redis: plain, with a password, over TLS; stalled and killed in the middle of a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.cluster.history import RedisHistories
from gateway.session import events as ev
from gateway.session.memory import Memory, StoreError
from gateway.settings import RedisSettings, ResumeSettings
from tests.support.fakes import FakeConnection
from tests.support.redis import RedisServer, redis_server
from tests.unit.session.harness import World

KEY = "a secret of all replicas, 32 characters"


@asynccontextmanager
async def histories(
    server: RedisServer, ttl_s: float = 60.0, **settings: Any
) -> AsyncIterator[RedisHistories]:
    made = RedisHistories(RedisSettings(url=server.url, ca=server.ca, **settings), ttl_s)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("how", [{}, {"password": "open sesame"}, {"tls": True}])
async def test_the_last_who_claimed_a_session_is_the_one_who_writes(tmp_path: Path, how: Any) -> None:
    async with (
        redis_server(tmp_path, **how) as server,
        histories(server, timeout_ms=5_000) as here,
        histories(server, timeout_ms=5_000) as there,
    ):
        assert await here.claim("ada", "s", 0) == (1, None)
        assert await here.write("ada", "s", 1, b"first", 60.0)
        assert await there.claim("ada", "s", 0) == (2, b"first")
        assert not await here.write("ada", "s", 1, b"late", 60.0)
        assert await there.write("ada", "s", 2, b"second", 60.0)
        await here.forget("ada", "s", 1)
        assert await here.claim("ada", "s", 7) == (8, b"second"), "forgotten by nobody who had lost it"
        assert await here.claim("eve", "s", 0) == (1, None), "another caller's session of that id is another"
        claims = await asyncio.gather(*(there.claim("ada", "t", 0) for _ in range(20)))
        assert sorted(epoch for epoch, _ in claims) == list(range(1, 21)), "no two have the same"


async def test_what_is_kept_expires_by_itself_and_keys_show_nothing(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, histories(server, prefix="mine:") as here:
        await here.claim("ada", "session-7", 0)
        await here.write("ada", "session-7", 1, b"x", 5.0)
        watch = Redis.from_url(server.url)
        key = str(await watch.keys("*"))
        assert key.startswith("[b'mine:session:")
        assert "session-7" not in key
        assert "ada" not in key
        assert 0 < await watch.pttl(key[3:-2]) <= 5_000
        await watch.aclose()


async def test_wrong_password_and_untrusted_certificate_are_store_errors(tmp_path: Path) -> None:
    async with redis_server(tmp_path, password="right") as server:
        for url in (server.url.replace("right", "wrong"), f"redis://127.0.0.1:{server.port}/0"):
            wrong = RedisHistories(RedisSettings(url=url), 60.0)
            with pytest.raises(StoreError, match="Redis failed"):
                await wrong.claim("a", "s", 0)
            await wrong.close()
    async with redis_server(tmp_path, tls=True) as server:
        untrusting = RedisHistories(RedisSettings(url=server.url), 60.0)
        with pytest.raises(StoreError) as caught:
            await untrusting.claim("a", "s", 0)
        assert "rediss" not in str(caught.value), "no URL, which may hold a password"
        await untrusting.close()


def test_a_url_that_is_none_says_what_to_write() -> None:
    with pytest.raises(ValueError, match="write redis://"):
        RedisHistories(RedisSettings(url="http://nowhere"), 60.0)


class Replica(World):
    def __init__(self, store: RedisHistories) -> None:
        super().__init__(memory=Memory(ResumeSettings(), KEY, longest_s=60.0, store=store))
        self.tts.ms_per_char = 5.0

    async def type(self, client: FakeConnection, text: str) -> None:
        tokens, done = len(client.of(ev.ResumeToken)), len(client.of(ev.ReplyDone))
        client.put(ev.TextIn(text))
        await client.until(ev.ReplyDone, count=done + 1, within_s=10.0)
        self.tokens_before = tokens


async def test_a_session_goes_on_at_another_replica(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, histories(server) as one, histories(server) as other:
        here, there = Replica(one), Replica(other)
        client = await here.connect(ev.Hello(resume=b""))
        await here.type(client, "my name is Ada")
        await here.sessions.drain(0.0)
        token = client.of(ev.ResumeToken)[-1].token
        again = await _resumed(there, token)
        assert again.of(ev.Ready)[0].resumed
        await there.type(again, "who am I?")
        said = [message.content for message in there.llm.prompts[-1] if message.role == "user"]
        assert said == ["my name is Ada", "who am I?"]
        await there.sessions.drain(0.0)
        await here.finish()
        await there.finish()


@pytest.mark.parametrize("fault", ["stalled", "killed"])
async def test_a_redis_that_fails_in_mid_session_is_only_missed(tmp_path: Path, fault: str) -> None:
    async with redis_server(tmp_path) as server, histories(server, timeout_ms=150) as store:
        here = Replica(store)
        client = await here.connect(ev.Hello(resume=b""))
        await here.type(client, "before")
        ticket = await client.until(ev.ResumeToken)
        if fault == "stalled":
            server.stall()
        else:
            await server.kill()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await here.type(client, "meanwhile")
        assert loop.time() - began < 1.5, "no turn waits for Redis"
        full = await client.until(ev.ResumeToken, count=2)
        assert len(full.token) > len(ticket.token)
        assert [w.code for w in client.of(ev.Warning)] == ["history_with_client"]
        began = loop.time()
        await here.sessions.drain(0.0)
        assert (await client.closed()).reason == "shutdown"
        assert loop.time() - began < 1.0
        there = Replica(store)
        again = await _resumed(there, client.of(ev.ResumeToken)[-1].token)
        await there.type(again, "after")
        said = [message.content for message in there.llm.prompts[-1] if message.role == "user"]
        assert said == ["before", "meanwhile", "after"]
        server.go_on() if fault == "stalled" else None
        await there.sessions.drain(0.0)
        await here.finish()
        await there.finish()


async def _resumed(replica: Replica, token: bytes) -> FakeConnection:
    """Once the store has answered, or its deadline is over."""
    connection = FakeConnection(ev.Hello(resume=token))
    replica._running.append(asyncio.create_task(replica.sessions.serve(connection)))
    await connection.until(ev.Ready, within_s=5.0)
    return connection
