"""Spans on their way to a collector, one that is there and one that is not."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.telemetry.context import Passed
from gateway.telemetry.spans import Span
from gateway.telemetry.tracing import Tracing
from tests.support.collector import collecting

PARENT = "00-" + "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
SAMPLED, NOT = (("traceparent", PARENT + "-01"),), (("traceparent", PARENT + "-00"),)


def make(url: str, tally: Counter[str] | None = None, **options: Any) -> Tracing:
    counts = tally if tally is not None else Counter()

    def count(outcome: str, spans: int) -> None:
        counts[outcome] += spans

    return Tracing(url, service="parley-test", instance="i", version="1", count=count, **options)


async def test_spans_arrive_with_their_times_and_headers() -> None:
    tally: Counter[str] = Counter()
    with collecting() as collector:
        tracing = make(collector.url, tally, headers={"x-key": "secret"})
        before, now = time.time(), asyncio.get_running_loop().time()
        session = tracing.session("s1", SAMPLED)
        assert session is not None
        turn = session.turn("t1", now - 2.0)
        call = turn.start("asr", now - 1.5, language="en-US", nothing=None)
        call.end(now - 0.5, error="it broke")
        turn.add("playout", now - 0.5, now, heard_ms=480)
        turn.add("backwards", now, now - 1.0)
        turn.close("completed", now, voice_to_voice_ms=12.5)
        turn.close("late")
        session.end("client")
        await tracing.close()
        spans = {span.name: span for span in collector.spans}
        assert collector.headers[0]["x-key"] == "secret"
    assert tally == {"exported": 5}
    turn_span, session_span = spans["turn"], spans["session"]
    assert session_span.trace == PARENT[3:35]
    assert session_span.parent == PARENT[36:52]
    assert turn_span.parent == ""
    assert turn_span.trace != session_span.trace
    assert turn_span.links == [session_span.id]
    assert turn_span.ms == pytest.approx(2000, abs=0.1)
    assert turn_span.wire.end_time_unix_nano / 1e9 == pytest.approx(before, abs=0.5)
    assert turn_span.about["parley.outcome"] == "completed"
    assert turn_span.about["parley.session_id"] == "s1"
    assert turn_span.about["parley.voice_to_voice_ms"] == 12.5
    asr = spans["asr"]
    assert (asr.trace, asr.parent, asr.failed) == (turn_span.trace, turn_span.id, True)
    assert asr.ms == pytest.approx(1000, abs=0.1)
    assert asr.about == {"parley.language": "en-US"}
    assert spans["backwards"].ms == 0
    assert {span.service for span in spans.values()} == {"parley-test"}


async def test_a_turn_that_nobody_ended_ends_with_its_session_where_its_last_part_did() -> None:
    with collecting() as collector:
        tracing = make(collector.url)
        now = asyncio.get_running_loop().time()
        session = tracing.session("s1", ())
        assert session is not None
        session.turn("t1", now - 9.0).add("speech", now - 9.0, now - 8.0)
        session.end("lost")
        await tracing.close()
        (turn,) = collector.named("turn")
    assert turn.ms == pytest.approx(1000, abs=0.1)
    assert turn.about["parley.outcome"] == "session_ended"


async def test_the_caller_decides_over_sampling_and_else_the_share() -> None:
    with collecting() as collector:
        never, always = make(collector.url, sample=0.0), make(collector.url)
        assert never.session("s", ()) is None
        assert never.session("s", SAMPLED) is not None
        assert always.session("s", NOT) is None
        assert always.session("s", ()) is not None
        passed = always.request("x", NOT, {})
        assert isinstance(passed, Passed)
        assert passed.carrier == NOT
        here = always.request("x", SAMPLED, {})
        assert isinstance(here, Span)
        assert here.carrier[0][1].startswith(PARENT[:35])
        await never.close()
        await always.close()


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("how", ["refuses", "black hole", "says 500", "says 400"])
async def test_a_dead_collector_costs_a_count_and_a_line(how: str, caplog: pytest.LogCaptureFixture) -> None:
    tally: Counter[str] = Counter()
    with collecting() as collector, socket.socket() as hole, caplog.at_level(logging.DEBUG):
        hole.bind(("127.0.0.1", 0))
        hole.listen(8)  # takes connections, and never says a word
        collector.status = {"says 500": 503, "says 400": 400}.get(how, 200)
        port = {"refuses": closed_port(), "black hole": hole.getsockname()[1]}.get(how, collector.port)
        tracing = make(f"http://user:hunter2@127.0.0.1:{port}", tally, headers={"x-key": "hunter3"})
        session = tracing.session("s1", ())
        assert session is not None
        began = asyncio.get_running_loop().time()
        for _ in range(3_000):
            session.turn("t", began).close("completed")
        spent = asyncio.get_running_loop().time() - began
        session.end("client")
        before = time.monotonic()
        await tracing.close()
        took = time.monotonic() - before
    assert took < 2.5
    assert spent < 3.0
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if how != "black hole":  # there it is still being tried
        assert tally["exported"] == 0
        assert tally["failed"] > 0
        assert len(said) == 1
        assert f"http://127.0.0.1:{port}" in said[0]
        assert "PARLEY_TELEMETRY__OTLP" in said[0]
    assert "hunter" not in caplog.text


@pytest.mark.parametrize("known", [True, False])
async def test_a_collector_with_a_certificate_of_ones_own(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known to the SDK by its own variable; else nothing is sent there."""
    for stronger in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the SDK's HTTP client asks these first
        monkeypatch.delenv(stronger, raising=False)
    authority, tally = trustme.CA(), Counter[str]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    if known:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca.crt"))
    with collecting(context) as collector:
        tracing = make(collector.url, tally)
        session = tracing.session("s1", ())
        assert session is not None
        session.end("client")
        await tracing.close()
        assert [span.name for span in collector.spans] == ["session"] * known
    assert tally == {"exported" if known else "failed": 1}


async def test_what_does_not_fit_the_queue_is_counted() -> None:
    tally: Counter[str] = Counter()
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(8)
        tracing = make(f"http://127.0.0.1:{hole.getsockname()[1]}", tally)
        session = tracing.session("s1", ())
        assert session is not None
        for _ in range(6_000):
            session.turn("t", 0.0).close("completed")
        await tracing.close()
    assert 6_000 - 4_096 - 512 <= tally["overflow"] <= 6_000 - 4_096


@pytest.mark.parametrize("bad", ["otel:4318", "ftp://x", "http://"])
async def test_an_address_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"telemetry\.otlp"):
        make(bad)
