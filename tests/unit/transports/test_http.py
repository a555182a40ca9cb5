"""Health, readiness, metrics and sessions over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.telemetry import pages
from gateway.telemetry.http_server import serve_http
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.pages import Check
from gateway.transports.http import Own, build_admin
from tests.support.draining import no_drain
from tests.support.raw_http import request


class Part:
    """A part whose state a test sets."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.release = asyncio.Event()
        self.release.set()
        self.entered = asyncio.Event()
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        self.entered.set()
        await self.release.wait()
        if self.error:
            raise self.error


@asynccontextmanager
async def gateway(
    checks: Mapping[str, Check], sessions: list[dict[str, Any]] | None = None
) -> AsyncIterator[tuple[int, Metrics]]:
    metrics = Metrics(CollectorRegistry())

    def snapshot() -> list[dict[str, Any]]:
        if sessions is None:
            raise RuntimeError("secret state")
        return sessions

    server = serve_http(build_admin(Own(checks, metrics.registry, snapshot), no_drain()), "127.0.0.1", 0)
    try:
        yield await server.start(), metrics
    finally:
        await server.stop()


def three() -> tuple[Part, dict[str, Check]]:
    """The LLM, to be broken, and the checks of all parts."""
    llm, asr, tts = Part(), Part(), Part()
    return llm, {"asr": asr.check, "llm": llm.check, "tts": tts.check}


async def test_ready_when_all_parts_are() -> None:
    _, checks = three()
    async with gateway(checks) as (port, _metrics):
        status, headers, text = await request(port, "GET", "/readyz")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(text) == {
        "status": "ready",
        "admitting": True,
        "parts": {"asr": {"ok": True}, "llm": {"ok": True}, "tts": {"ok": True}},
    }


@pytest.mark.parametrize("down", ["asr", "llm", "tts"])
async def test_readiness_fails_when_a_part_is_down_and_liveness_does_not(down: str) -> None:
    broken = Part()
    broken.error = RuntimeError("It is gone; start it.")
    checks = three()[1] | {down: broken.check}
    async with gateway(checks) as (port, _metrics):
        status, _, text = await request(port, "GET", "/readyz")
        alive, _, _ = await request(port, "GET", "/healthz")
    body = json.loads(text)
    assert (status, alive) == (503, 200)
    assert body["status"] == "not ready"
    assert body["parts"].pop(down) == {"ok": False, "error": "It is gone; start it."}
    assert all(part == {"ok": True} for part in body["parts"].values())


async def test_a_silent_part_has_a_deadline_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CHECK_S", 0.1)
    llm, checks = three()
    llm.release.clear()
    async with gateway(checks) as (port, _metrics):
        status, _, text = await request(port, "GET", "/readyz")
    assert status == 503
    assert json.loads(text)["parts"] == {
        "asr": {"ok": True},
        "llm": {"ok": False, "error": "It did not answer within 0.1 s."},
        "tts": {"ok": True},
    }


async def test_checks_run_together() -> None:
    parts = [Part() for _ in range(3)]
    for part in parts:
        part.release.clear()
    async with gateway({str(number): part.check for number, part in enumerate(parts)}) as (port, _metrics):
        asking = asyncio.create_task(request(port, "GET", "/readyz"))
        async with asyncio.timeout(2):
            for part in parts:
                await part.entered.wait()
        for part in parts:
            part.release.set()
        assert (await asking)[0] == 200


async def test_many_probes_make_one_check_and_a_new_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, checks = three()
    llm.release.clear()
    async with gateway(checks) as (port, _metrics):
        asking = [asyncio.create_task(request(port, "GET", "/readyz")) for _ in range(5)]
        await llm.entered.wait()
        asking[0].cancel()  # a probe that hangs up harms no other
        llm.release.set()
        answers = await asyncio.gather(*asking[1:])
        assert [status for status, _, _ in answers] == [200] * 4
        llm.error = RuntimeError("down")
        assert (await request(port, "GET", "/readyz"))[0] == 200
        assert llm.checks == 1
        monkeypatch.setattr(pages, "CACHE_S", 0.0)
        assert (await request(port, "GET", "/readyz"))[0] == 503
        assert llm.checks == 2


async def test_metrics_and_sessions() -> None:
    sessions = [{"id": "a", "state": "LISTENING"}]
    async with gateway({}, sessions) as (port, metrics):
        metrics.turn_ended("completed")
        status, headers, text = await request(port, "GET", "/metrics")
        listed = await request(port, "GET", "/v1/sessions")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert 'parley_turns_total{outcome="completed"} 1.0' in text
    assert json.loads(listed[2]) == {"sessions": sessions}


@pytest.mark.parametrize(("admitting", "status"), [(True, 200), (False, 503)])
async def test_who_takes_no_new_sessions_is_still_ready(admitting: bool, status: int) -> None:
    own = Own({}, CollectorRegistry(), list, lambda: admitting)
    server = serve_http(build_admin(own, no_drain()), "127.0.0.1", 0)
    try:
        port = await server.start()
        assert (await request(port, "GET", "/admitz"))[0] == status
        ready = await request(port, "GET", "/readyz")
    finally:
        await server.stop()
    assert ready[0] == 200
    assert json.loads(ready[2])["admitting"] is admitting


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/sessions", 500, "internal"),
    ],
)
async def test_errors_are_json_and_say_nothing_secret(method: str, path: str, status: int, code: str) -> None:
    async with gateway({}) as (port, _metrics):
        answer, headers, text = await request(port, method, path)
    assert answer == status
    assert headers["content-type"] == "application/json"
    assert json.loads(text)["error"]["code"] == code
    assert "secret" not in text
