"""One page over several processes."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.telemetry.exposition import page
from gateway.telemetry.merge import DumpCollector, dump, merge, totals
from gateway.telemetry.metrics import PEAKS, Metrics


def process(sessions: int, backlog_ms: float, outcome: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.watch_vad(lambda: backlog_ms)
    for _ in range(sessions):
        metrics.session_started()
        metrics.observe("voice_to_voice", 0.5)
    metrics.session_refused(outcome)
    metrics.dropped(outcome)
    return registry


def shown(dumps: list[list[list[object]]]) -> CollectorRegistry:
    page = CollectorRegistry()
    page.register(DumpCollector(merge(dumps, PEAKS)))
    return page


def test_counts_and_levels_add_up_and_the_largest_backlog_counts() -> None:
    dumps = [dump(process(2, 40, "full")), dump(process(3, 30, "overloaded"))]
    value = shown(json.loads(json.dumps(dumps))).get_sample_value
    assert value("parley_sessions_active") == 5
    assert value("parley_vad_backlog_seconds") == 0.04
    assert value("parley_voice_to_voice_seconds_count") == 5
    assert value("parley_voice_to_voice_seconds_sum") == 2.5
    assert value("parley_voice_to_voice_seconds_bucket", {"le": "0.6"}) == 5
    assert value("parley_voice_to_voice_seconds_bucket", {"le": "0.45"}) == 0
    assert value("parley_refused_total", {"reason": "full"}) == 1
    assert value("parley_dropped_total", {"reason": "full"}) == 1
    assert value("parley_dropped_total", {"reason": "overloaded"}) == 1


def test_one_process_alone_looks_as_it_does_by_itself() -> None:
    registry = process(2, 40, "full")
    assert generate_latest(shown([dump(registry)])) == generate_latest(registry)


def test_what_an_ended_process_counted_stays_and_its_levels_go() -> None:
    left = totals(dump(process(2, 40, "full")))
    value = shown([left, dump(process(3, 30, "full"))]).get_sample_value
    assert value("parley_voice_to_voice_seconds_count") == 5
    assert value("parley_sessions_active") == 3
    assert value("parley_vad_backlog_seconds") == 0.03


def test_a_page_of_merged_metrics_begins_when_the_first_did() -> None:
    first, second = dump(process(1, 0, "full")), dump(process(1, 0, "full"))
    began = shown([first]).get_sample_value("parley_voice_to_voice_seconds_created")
    assert shown([second, first]).get_sample_value("parley_voice_to_voice_seconds_created") == began


def test_of_several_exemplars_the_latest_is_shown() -> None:
    registries = []
    for trace, value in (("a" * 32, 0.2), ("b" * 32, 0.21)):
        registry = CollectorRegistry()
        timed = Histogram("parley_x_seconds", "x", buckets=(0.1, 1.0), registry=registry)
        timed.observe(value, {"trace_id": trace})
        registries.append(registry)
    plain = CollectorRegistry()
    Histogram("parley_x_seconds", "x", buckets=(0.1, 1.0), registry=plain).observe(0.3)
    dumps = [json.loads(json.dumps(dump(registry))) for registry in (*registries, plain)]
    for order in (dumps, dumps[::-1]):
        whole = CollectorRegistry()
        whole.register(DumpCollector(merge(order)))
        text, _ = page(whole, "application/openmetrics-text")
        (line,) = [one for one in text.decode().splitlines() if " # " in one]
        assert line.startswith(f'parley_x_seconds_bucket{{le="1.0"}} 3.0 # {{trace_id="{"b" * 32}"}} 0.21 ')
        plain_text, kind = page(whole, "text/plain")
        assert kind.startswith("text/plain")
        assert b" # {" not in plain_text
