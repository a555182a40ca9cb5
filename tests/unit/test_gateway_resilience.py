"""Resilience: the whole gateway over real wires, with parts that fail to order."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.session import events as ev
from gateway.settings import Settings
from load.emulators import Emulators, Profile
from load.emulators.faults import Part
from load.emulators.profile import LlmProfile
from tests.support.caller import Caller
from tests.support.raw_http import request

OPEN_S = 1.5


@asynccontextmanager
async def standing(
    profile: Profile | None = None, **changes: Any
) -> AsyncIterator[tuple[Gateway, Emulators]]:
    parts = Emulators(profile or Profile(llm=LlmProfile(replies=("Yes.",))))
    addresses = await parts.open()
    sections: dict[str, Any] = {
        "asr": {"uri": addresses.asr},
        "llm": {"base_url": addresses.llm, "retries": 0},
        "tts": {"uri": addresses.triton, "chunk_ms": 200},  # a voice that dies says nothing
        "listen": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "session": {"drain_s": 0.0},
        "breaker": {"open_s": OPEN_S},
    }
    gateway = Gateway(Settings(**(sections | changes)))
    await gateway.start()
    try:
        yield gateway, parts
    finally:
        await gateway.stop()
        await parts.close()


async def get(gateway: Gateway, path: str) -> tuple[int, str]:
    status, _, text = await request(int(gateway.admin.rpartition(":")[2]), "GET", path)
    return status, text


async def breaker(gateway: Gateway, part: str) -> float:
    _, text = await get(gateway, "/metrics")
    found = re.search(rf'^parley_breaker_state{{part="{part}"}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_readiness_fails_when_a_part_is_down_and_liveness_does_not(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telemetry.pages.CACHE_S", 0.0)
    async with standing() as (gateway, parts):
        assert (await get(gateway, "/readyz"))[0] == 200
        await parts.ports[part].close()
        status, text = await get(gateway, "/readyz")
        assert status == 503
        shown = json.loads(text)["parts"]
        assert {name for name in shown if not shown[name]["ok"]} == {part}
        assert f"PARLEY_{part.upper()}__" in shown[part]["error"]  # says where to look
        assert (await get(gateway, "/healthz"))[0] == 200


async def test_a_part_that_fails_five_times_is_refused_at_once_for_all_sessions_and_recovers() -> None:
    part: Part = "llm"
    async with standing() as (gateway, parts), Caller(gateway.grpc) as first, Caller(gateway.grpc) as second:
        assert (await first.ask("hello")).done.outcome is ev.Outcome.COMPLETED
        parts.faults.order({"part": part, "kind": "refuse", "count": 1_000})
        for _ in range(5):
            assert await breaker(gateway, part) == 0
            assert (await first.ask("hello")).done.outcome is ev.Outcome.FAILED
        assert await breaker(gateway, part) == 2
        struck = parts.faults.struck[part]
        refused = await second.ask("hello")
        assert refused.done.outcome is ev.Outcome.FAILED
        assert parts.faults.struck[part] == struck  # not asked again
        (error,) = second.since(ev.Error)
        assert error.code == "llm_failed"
        assert "failed 5 times in a row and is left alone for" in error.message
        status, text = await get(gateway, "/readyz")
        assert status == 503
        assert "left alone" in json.loads(text)["parts"][part]["error"]
        assert (await get(gateway, "/healthz"))[0] == 200
        parts.faults.clear()
        mark = first.mark()
        while (await first.ask("hello")).done.outcome is not ev.Outcome.COMPLETED:
            pass  # until the time is over and one call tries it
        assert not [
            e for e in first.since(ev.Error, mark) if not re.search("left alone|tried again in", e.message)
        ]
        assert await breaker(gateway, part) == 0


async def test_a_voice_that_says_nothing_is_given_up_for_all_sessions_and_comes_back() -> None:
    async with (
        standing(models={"backoff_s": OPEN_S}) as (gateway, parts),
        Caller(gateway.grpc) as first,
        Caller(gateway.grpc) as second,
    ):
        assert (await first.ask("hello")).done.outcome is ev.Outcome.COMPLETED
        parts.faults.order({"part": "tts", "kind": "die", "count": 1_000})
        while "tried again in" not in (await failure(first)).message:
            pass  # until it was loaded again in vain
        struck = parts.faults.struck["tts"]
        told = await failure(second)
        assert told.code == "tts_failed"
        assert "tried again in" in told.message
        assert parts.faults.struck["tts"] == struck  # not asked again
        status, text = await get(gateway, "/readyz")
        assert status == 503
        assert "tried again in" in json.loads(text)["parts"]["tts"]["error"]
        parts.faults.clear()
        while (await first.ask("hello")).done.outcome is not ev.Outcome.COMPLETED:
            pass  # until the pause is over, and it is loaded


async def failure(caller: Caller) -> ev.Error:
    """Of a turn that fails."""
    mark = caller.mark()
    assert (await caller.ask("hello")).done.outcome is ev.Outcome.FAILED
    return caller.since(ev.Error, mark)[-1]
