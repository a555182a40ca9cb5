"""What a process tells of itself is fed by what happens in it: refusals, a drain that hangs, requests in traces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from gateway.app.telemetry import open_tracing, tell_of
from gateway.identity import Identity
from gateway.identity.caller import Denied
from gateway.settings import AuthSettings, Settings, TelemetrySettings
from gateway.telemetry.asgi import TracedApp
from gateway.telemetry.context import Pairs, trace_carrier
from gateway.telemetry.draining import Drain
from gateway.telemetry.process_metrics import ProcessMetrics
from tests.support.collector import collecting
from tests.support.virtual_time import run_virtual

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


async def test_refused_credentials_are_counted_by_reason() -> None:
    registry = CollectorRegistry()
    identity = Identity(AuthSettings(api_keys=(SecretStr("right"),)))
    tell_of(Settings(), registry, ProcessMetrics(registry), identity, None)
    for given, scope in (("", "voice"), ("wrong", "voice"), ("wrong", "voice"), ("right", "admin")):
        with pytest.raises(Denied):
            await identity.caller(given, scope)
    await identity.caller("right", "voice")
    await identity.close()
    counted = {
        reason: registry.get_sample_value("parley_auth_refused_total", {"reason": reason})
        for reason in ("missing", "unknown", "scope", "expired")
    }
    assert counted == {"missing": 1, "unknown": 2, "scope": 1, "expired": 0}


def test_a_drain_that_hangs_says_for_how_long() -> None:
    async def main() -> None:
        registry, hold = CollectorRegistry(), asyncio.Event()

        async def work() -> None:
            await hold.wait()

        drain = Drain(30.0, work, lambda: 1)
        tell_of(Settings(), registry, ProcessMetrics(registry), None, drain)

        def told() -> tuple[float | None, float | None]:
            value = registry.get_sample_value
            return value("parley_draining"), value("parley_drain_overdue_seconds")

        assert told() == (0, 0)
        drain.begin()
        await asyncio.sleep(29)
        assert told() == (1, 0)
        await asyncio.sleep(11)
        assert told() == (1, 10)
        hold.set()
        await drain.done()
        assert told() == (0, 0)

    run_virtual(main())


async def test_without_a_collector_there_is_no_tracing_and_with_one_its_spans_are_counted() -> None:
    registry = CollectorRegistry()
    process = ProcessMetrics(registry)
    assert open_tracing(TelemetrySettings(), "gateway", process) is None
    with collecting() as collector:
        settings = TelemetrySettings(otlp=collector.url, headers={"x-key": SecretStr("secret")})
        tracing = open_tracing(settings, "gateway", process)
        assert tracing is not None
        session = tracing.session("s", ())
        assert session is not None
        session.end("client")
        await tracing.close()
        assert collector.headers[0]["x-key"] == "secret"
        assert [span.service for span in collector.spans] == ["parley-gateway"]
    assert registry.get_sample_value("parley_spans_total", {"outcome": "exported"}) == 1


@pytest.mark.parametrize("traced", [True, False])
async def test_an_http_request_carries_its_caller_s_trace_on(traced: bool) -> None:
    asked: list[Pairs] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(trace_carrier())
        if scope["path"] == "/broken":
            raise RuntimeError("a secret")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with collecting() as collector:
        process = ProcessMetrics(CollectorRegistry())
        tracing = open_tracing(TelemetrySettings(otlp=collector.url), "gateway", process) if traced else None
        it = TracedApp(app, tracing, ("/v1/audio/speech",))
        headers = [(b"traceparent", f"{PARENT}-01".encode())]

        async def get(path: str, headers: list[tuple[bytes, bytes]]) -> None:
            async def send(message: Any) -> None:
                pass

            async def receive() -> Any:
                raise AssertionError("nothing is read")

            await it({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)

        await get("/v1/audio/speech", headers)
        await get("/v1/audio/speech", [])
        assert trace_carrier() == ()
        with pytest.raises(RuntimeError):
            await get("/broken", headers)
        if tracing is not None:
            await tracing.close()
        spans = list(collector.spans)
    if not traced:
        assert asked == [(("traceparent", f"{PARENT}-01"),), (), (("traceparent", f"{PARENT}-01"),)]
        assert not spans
        return
    assert [dict(one)["traceparent"][:35] == PARENT[:35] for one in asked] == [True, False, True]
    by_name = {(span.name, span.parent): span for span in spans}
    good = by_name["POST /v1/audio/speech", PARENT[36:52]]
    assert good.about["http.response.status_code"] == 200
    assert good.id == dict(asked[0])["traceparent"][36:52]
    assert ("POST /v1/audio/speech", "") in by_name
    broken = by_name["POST", PARENT[36:52]]  # a path that clients make up names no span
    assert broken.failed
    assert broken.wire.status.message == "RuntimeError"
