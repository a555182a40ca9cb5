"""Metrics count once, and the table of them is true."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
import trustme
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

from gateway.identity.caller import Reason
from gateway.telemetry.certificates import NAME as CERTIFICATES
from gateway.telemetry.certificates import CertificateExpiry
from gateway.telemetry.metrics import STAGES, Metrics, WorkerMetrics
from gateway.telemetry.model_metrics import ModelLevel, ModelMetrics
from gateway.telemetry.process_metrics import DENIALS, LoopMetrics, ProcessMetrics
from gateway.telemetry.speech_metrics import SpeechMetrics

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def make() -> tuple[Metrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return Metrics(registry), registry


def trustme_chain(folder: Path) -> Path:
    path = folder / "tls.crt"
    trustme.CA().issue_cert("localhost").cert_chain_pems[0].write_to_path(str(path))
    return path


def test_the_table_is_true(tmp_path: Path) -> None:
    metrics, registry = make()
    metrics.dropped("x")
    metrics.watch_breaker("llm", lambda: 2)
    metrics.part_failed("llm", "x")
    metrics.session_started()
    metrics.session_ended("x")
    workers = CollectorRegistry()
    WorkerMetrics(workers).show({0: 1})
    models = CollectorRegistry()
    of_models = ModelMetrics(models)
    of_models.loaded("m", 1)
    of_models.load_failed("m", "died")
    of_models.unloaded("m", "ttl")
    of_models.first_chunk("m", 1)
    of_models.watch(lambda: [ModelLevel("m", "1", "default", 0)])
    speech = CollectorRegistry()
    SpeechMetrics(speech, max_streams=1)
    process = CollectorRegistry()
    ProcessMetrics(process)
    LoopMetrics(process)
    process.register(CertificateExpiry({"listeners": trustme_chain(tmp_path)}))
    real = {}
    every = (registry, workers, models, speech, process)
    for family in (family for one in every for family in one.collect()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        real[name] = (family.type, labels)
    documented = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            name, kind, label_cell, what = (cell.strip() for cell in line.strip("|").split("|"))
            documented[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", label_cell)))
            assert what
    assert documented == real


def test_every_stage_is_a_histogram_in_seconds() -> None:
    metrics, registry = make()
    for stage in STAGES:
        metrics.observe(stage, 0.25)
        metrics.observe(stage, -1)
        assert registry.get_sample_value(f"parley_{stage}_seconds_count") == 2
        assert registry.get_sample_value(f"parley_{stage}_seconds_sum") == 0.25
    with pytest.raises(KeyError):
        metrics.observe("nothing", 1)


def test_counts() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    for (
        name,
        labels,
    ) in (  # what an alert counts is there before the first: `increase` needs a point to begin at
        ("parley_turns_total", {"outcome": "failed"}),
        ("parley_dropped_total", {"reason": "slow_client"}),
        *(("parley_part_errors_total", {"part": p, "code": f"{p}_failed"}) for p in ("asr", "llm", "tts")),
    ):
        assert value(name, labels) == 0
    for outcome in ("completed", "interrupted", "cancelled", "failed"):
        metrics.turn_ended(outcome)
        assert value("parley_turns_total", {"outcome": outcome}) == 1
    metrics.barge_in(real=True)
    metrics.barge_in(real=False)
    metrics.barge_in(real=False)
    assert value("parley_barge_ins_total", {"kind": "true"}) == 1
    assert value("parley_barge_ins_total", {"kind": "false"}) == 2
    metrics.dropped("slow_client", 7)
    assert value("parley_dropped_total", {"reason": "slow_client"}) == 7
    metrics.part_failed("asr", "asr_failed")
    assert value("parley_part_errors_total", {"part": "asr", "code": "asr_failed"}) == 1
    metrics.llm_chunk()
    assert value("parley_llm_chunks_total") == 1


def test_sessions() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    metrics.session_started()
    metrics.session_started()
    assert value("parley_sessions_active") == 2
    metrics.session_ended("idle")
    assert value("parley_sessions_active") == 1
    assert value("parley_sessions_total", {"reason": "idle"}) == 1


def test_backlog_is_read_when_asked_for() -> None:
    metrics, registry = make()
    backlog = [0.0]
    metrics.watch_vad(lambda: backlog[0])
    backlog[0] = 250.0
    assert registry.get_sample_value("parley_vad_backlog_seconds") == 0.25


def test_a_breakers_state_is_read_when_asked_for() -> None:
    metrics, registry = make()
    state = [0]
    metrics.watch_breaker("llm", lambda: state[0])
    metrics.watch_breaker("asr", lambda: 0)
    state[0] = 2
    assert registry.get_sample_value("parley_breaker_state", {"part": "llm"}) == 2
    assert registry.get_sample_value("parley_breaker_state", {"part": "asr"}) == 0


def test_two_registries_live_side_by_side() -> None:
    first, _ = make()
    second, registry = make()
    first.turn_ended("completed")
    assert b'parley_turns_total{outcome="completed"} 0.0' in generate_latest(registry)
    assert second.registry is registry


def test_a_gateway_says_how_many_sessions_it_takes() -> None:
    metrics, registry = make()
    metrics.watch_admission(lambda: True, lambda: 30.0, max_sessions=120)
    assert registry.get_sample_value("parley_sessions_capacity") == 120
    assert registry.get_sample_value("parley_admitting") == 1
    assert registry.get_sample_value("parley_vad_backlog_sustained_seconds") == 0.03


def test_every_reason_of_a_refusal_is_there_before_the_first() -> None:
    assert set(DENIALS) == set(get_args(Reason))


def test_a_certificate_that_is_replaced_or_gone_is_seen(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    path = trustme_chain(tmp_path)
    registry.register(CertificateExpiry({"listeners": path}))

    def expires() -> float | None:
        return registry.get_sample_value(CERTIFICATES, {"of": "listeners"})

    assert CERTIFICATES == "parley_certificate_expires_timestamp_seconds"  # as alerts have it
    first = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    assert expires() == first
    issuer = trustme.CA()
    soon = datetime.now(UTC) + timedelta(days=3)
    issuer.issue_cert("localhost", not_after=soon).cert_chain_pems[0].write_to_path(str(path))
    assert expires() == int(soon.timestamp())
    path.write_text("no certificate")
    assert expires() is None
    path.unlink()
    assert expires() is None


def test_resumes() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    assert value("parley_resumes_total", {"outcome": "lost"}) == 0
    metrics.resume("resumed")
    metrics.resume("store_failed")
    assert value("parley_resumes_total", {"outcome": "resumed"}) == 1
    assert value("parley_history_store_failures_total") == 1
