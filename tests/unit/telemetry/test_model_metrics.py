"""Metrics of models: counted once, few labels, and nothing left of a model that is gone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from gateway.telemetry.merge import dump, merge
from gateway.telemetry.model_metrics import MODEL_PEAKS, REASONS, ModelLevel, ModelMetrics
from gateway.triton.manager.events import EVICTIONS, Cause


def make() -> tuple[ModelMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return ModelMetrics(registry), registry


def test_loads_and_failures() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    metrics.loaded("tts_x", 1.5)
    metrics.load_failed("tts_x", "died")
    metrics.load_failed("tts_x", "ImportError: no module named 'nothing'")
    assert value("parley_model_loads_total", {"model": "tts_x", "outcome": "loaded"}) == 1
    assert value("parley_model_loads_total", {"model": "tts_x", "outcome": "failed"}) == 2
    assert value("parley_model_load_seconds_sum", {"model": "tts_x"}) == 1.5
    assert value("parley_model_failures_total", {"model": "tts_x", "reason": "died"}) == 1
    assert value("parley_model_failures_total", {"model": "tts_x", "reason": "other"}) == 1


def test_reasons_are_those_of_the_events() -> None:
    assert set(REASONS) == {cause.value for cause in Cause}


def test_an_eviction_is_an_unload_too_and_an_operators_is_none() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    for because in (*EVICTIONS, "operator"):
        metrics.unloaded("tts_x", because)
        assert value("parley_model_unloads_total", {"model": "tts_x", "because": because}) == 1
    assert value("parley_model_evictions_total", {"model": "tts_x", "because": "ttl"}) == 1
    assert value("parley_model_evictions_total", {"model": "tts_x", "because": "operator"}) is None


def test_repairs_rolls_and_first_chunks() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    assert value("parley_model_rolls_total", {"outcome": "failed"}) == 0
    metrics.repaired()
    metrics.roll_ended(ok=True)
    metrics.first_chunk("tts_x", 0.04)
    metrics.first_chunk("tts_x", -1)
    assert value("parley_model_repairs_total") == 1
    assert value("parley_model_rolls_total", {"outcome": "rolled"}) == 1
    assert value("parley_model_first_chunk_seconds_count", {"model": "tts_x"}) == 2
    assert value("parley_model_first_chunk_seconds_sum", {"model": "tts_x"}) == 0.04


def test_gauges_vanish_with_their_model() -> None:
    metrics, registry = make()
    value = registry.get_sample_value
    assert value("parley_models_resident") == 0
    resident = [ModelLevel("asr_x", "1", "default", 3, 2), ModelLevel("tts_x", "1", "session", 1)]
    metrics.watch(lambda: resident)
    assert value("parley_models_resident") == 2
    assert value("parley_model_resident", {"model": "asr_x", "version": "1", "why": "default"}) == 1
    assert value("parley_model_leases", {"model": "asr_x"}) == 3
    assert value("parley_model_queue", {"model": "asr_x"}) == 2
    resident.pop(0)
    assert b"asr_x" not in generate_latest(registry)
    assert value("parley_models_resident") == 1


def test_two_versions_of_one_model_are_one_model() -> None:
    metrics, registry = make()
    metrics.watch(lambda: [ModelLevel("tts_x", "1", "session", 1), ModelLevel("tts_x", "2", "session", 2)])
    assert registry.get_sample_value("parley_models_resident") == 1
    assert registry.get_sample_value("parley_model_leases", {"model": "tts_x"}) == 3
    assert registry.get_sample_value(
        "parley_model_resident", {"model": "tts_x", "version": "2", "why": "session"}
    )


def test_several_processes_show_the_same_models_once() -> None:
    dumps = []
    for leases in (2, 5):
        metrics, registry = make()
        level = ModelLevel("tts_x", "1", "session", leases)
        metrics.watch(lambda level=level: [level])  # type: ignore[misc]
        dumps.append(dump(registry))
    merged = {name: samples for name, _, _, samples in merge(dumps, MODEL_PEAKS)}
    assert merged["parley_models_resident"] == [["parley_models_resident", {}, 1.0]]
    assert merged["parley_model_leases"][0][2] == 5
