"""One page over several processes."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, generate_latest

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
