"""The alerts: promtool takes them, each fires when it should and is still when it should be, each has a page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import Settings
from tests.observability.rules import ALERTS, ROOT, RUNBOOKS, alerts, metrics_in, table, tool, wrong_in

HERE = 'namespace="voice",pod="gateway-0"'
DAY = 86_400
Series = dict[str, str]


def of(metric: str, labels: str = "") -> str:
    return f"{metric}{{{labels + ',' if labels else ''}{HERE}}}"


def buckets(fast: int, slow: int) -> Series:
    """Voice to voice: so many replies a minute below 1 s, and between 2 and 3 s."""
    bounds = {"1.0": fast, "2.0": fast, "3.0": fast + slow, "+Inf": fast + slow}
    name = "parley_voice_to_voice_seconds"
    made = {of(f"{name}_bucket", f'le="{le}"'): f"0+{count}x40" for le, count in bounds.items()}
    return made | {of(f"{name}_count"): f"0+{fast + slow}x40"}


FIRES: dict[str, tuple[Series, Series]] = {
    # name: (series with which it fires within 30 minutes, series with which it does not)
    "ParleyVoiceToVoiceSlow": (buckets(50, 10), buckets(100, 2)),
    "ParleyTurnsFailing": (
        {
            of("parley_turns_total", 'outcome="failed"'): "0+10x40",
            of("parley_turns_total", 'outcome="completed"'): "0+90x40",
        },
        {  # few of many; one of one, in a quiet night
            of("parley_turns_total", 'outcome="failed"'): "0+1x40",
            of("parley_turns_total", 'outcome="completed"'): "0+99x40",
            'parley_turns_total{outcome="failed",namespace="night",pod="gateway-0"}': "0x25 1x15",
        },
    ),
    "ParleyPartFailing": (
        {of("parley_part_errors_total", 'part="llm",code="llm_failed"'): "0+2x40"},
        {of("parley_part_errors_total", 'part="llm",code="llm_failed"'): "0 0 0 2x37"},
    ),
    "ParleyBreakerOpen": (
        {of("parley_breaker_state", 'part="tts"'): "0 0 2 1 2 1 2x30"},
        {of("parley_breaker_state", 'part="tts"'): "0 0 2 0x40"},
    ),
    "ParleyFramesDropped": (
        {of("parley_dropped_total", 'reason="slow_client"'): "0+600x40"},
        {
            of("parley_dropped_total", 'reason="slow_client"'): "0+60x40",
            of("parley_dropped_total", 'reason="flushed"'): "0+6000x40",
        },
    ),
    "ParleyGatewayDown": (
        {of("parley_sessions_capacity"): "200x10 stale"},
        {of("parley_sessions_capacity"): "200x40"},
    ),
    "ParleyNotAdmitting": (
        {of("parley_admitting"): "0x40"},
        {of("parley_admitting"): "0x40", 'parley_admitting{namespace="voice",pod="gateway-1"}': "1x40"},
    ),
    "ParleySessionsRefused": (
        {of("parley_refused_total", 'reason="full"'): "0+5x40"},
        {
            of("parley_refused_total", 'reason="full"'): "7x40",
            of("parley_refused_total", 'reason="shutting_down"'): "0+5x40",
        },
    ),
    "ParleyCallersRefused": (
        {of("parley_auth_refused_total", 'reason="unknown"'): "0+120x40"},
        {of("parley_auth_refused_total", 'reason="unknown"'): "0+6x40"},
    ),
    "ParleyIssuerUnreachable": (
        {of("parley_auth_refused_total", 'reason="unavailable"'): "0+1x40"},
        {of("parley_auth_refused_total", 'reason="unknown"'): "0+1x40"},
    ),
    "ParleyHistoryStoreFailing": (
        {of("parley_history_store_failures_total"): "0+3x40"},
        {of("parley_history_store_failures_total"): "3x40"},
    ),
    "ParleyNoWorkers": (
        {of("parley_worker_restarts_total"): "0+1x40"},
        {of("parley_worker_restarts_total"): "0+1x40", of("parley_workers"): "1x40"},
    ),
    "ParleyWorkersRestarting": (
        {of("parley_worker_restarts_total"): "0+1x40"},
        {of("parley_worker_restarts_total"): "0x10 1x30"},
    ),
    "ParleyLoopStalled": (
        {of("parley_loop_stalls_total"): "0+1x40"},
        {of("parley_loop_stalls_total"): "0x10 2x30"},
    ),
    "ParleyFilesRunOut": (
        {of("process_open_fds"): "900x40", of("process_max_fds"): "1024x40"},
        {of("process_open_fds"): "500x40", of("process_max_fds"): "1024x40"},
    ),
    "ParleyDrainStuck": (
        {
            of("parley_drain_overdue_seconds"): "0x27 28 stale"
        },  # killed after half a minute, as the chart has it
        {of("parley_drain_overdue_seconds"): "0x5 10 0x30"},
    ),
    "ParleyCertificateExpiring": (
        {of("parley_certificate_expires_timestamp_seconds", 'of="listeners"'): f"{10 * DAY}x40"},
        {of("parley_certificate_expires_timestamp_seconds", 'of="listeners"'): f"{20 * DAY}x40"},
    ),
    "ParleyCertificateAlmostExpired": (
        {of("parley_certificate_expires_timestamp_seconds", 'of="listeners"'): f"{DAY}x40"},
        {of("parley_certificate_expires_timestamp_seconds", 'of="listeners"'): f"{3 * DAY}x40"},
    ),
    "ParleyTracesLost": (
        {of("parley_spans_total", 'outcome="failed"'): "0+9x40"},
        {of("parley_spans_total", 'outcome="exported"'): "0+9x40"},
    ),
    "ParleySpeechDown": (
        {of("parley_speech_streams_capacity"): "1000x10 stale"},
        {of("parley_speech_streams_capacity"): "1000x40"},
    ),
    "ParleyNoModels": ({of("parley_models_resident"): "0x40"}, {of("parley_models_resident"): "0x3 1x37"}),
    "ParleyModelLoadFailing": (
        {
            of("parley_model_failures_total", 'model="tts_a",reason="died"'): "_x25 1x15"
        },  # its first, and only one
        {of("parley_model_failures_total", 'model="tts_a",reason="died"'): "3x40"},
    ),
    "ParleyModelsPushedOut": (
        {of("parley_model_evictions_total", 'model="tts_a",because="count"'): "0+1x40"},
        {of("parley_model_evictions_total", 'model="tts_a",because="ttl"'): "0+1x40"},
    ),
    "ParleyModelDies": (
        {of("parley_model_repairs_total"): "0+1x40"},
        {of("parley_model_repairs_total"): "0x10 1x30"},
    ),
    "ParleyGpuMemoryFull": (
        {
            of("nv_gpu_memory_used_bytes", 'gpu_uuid="GPU-1"'): "79e9x40",
            of("nv_gpu_memory_total_bytes", 'gpu_uuid="GPU-1"'): "80e9x40",
        },
        {
            of("nv_gpu_memory_used_bytes", 'gpu_uuid="GPU-1"'): "40e9x40",
            of("nv_gpu_memory_total_bytes", 'gpu_uuid="GPU-1"'): "80e9x40",
        },
    ),
}


def promtool(*arguments: str) -> str:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(ALERTS))


def test_every_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path: Path) -> None:
    assert FIRES.keys() == alerts().keys()
    tests: list[dict[str, Any]] = []
    for name, (fire, calm) in FIRES.items():
        for series, expected in ((fire, True), (calm, False)):
            firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
            tests.append(
                {
                    "interval": "1m",
                    "name": f"{name}: {'fires' if expected else 'is still'}",
                    "input_series": [{"series": key, "values": values} for key, values in series.items()],
                    "promql_expr_test": [
                        {"expr": firing, "eval_time": "30m", "exp_samples": [{"value": int(expected)}]}
                    ],
                }
            )
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    promtool("test", "rules", str(path))


HEALTHY = {
    "parley_sessions_capacity": 200, "parley_speech_streams_capacity": 1_000, "parley_admitting": 1, "parley_workers": 1,
    "parley_models_resident": 2, "parley_certificate_expires_timestamp_seconds": 90 * DAY, "process_max_fds": 1_024,
}  # fmt: skip
"""Levels that are not 0 where nothing is wrong."""


@pytest.mark.parametrize("calls", [0, 9], ids=["no calls", "calls"])
def test_nothing_fires_while_nothing_happens_and_where_a_pod_takes_another_s_place(
    tmp_path: Path, calls: int
) -> None:
    """No calls: shares are 0/0. Another pod: counters begin anew, also under the same name. Prometheus has been
    there for ten minutes: what it finds when it begins is news to it."""
    series = {}
    for name, row in table().items():
        labels = "".join(f'{key}="{min(words, default="x")}",' for key, words in sorted(row.labels.items()))
        value = HEALTHY.get(name, calls if name.endswith(("_total", "_count", "_bucket", "_sum")) else 0)
        after = value if row.kind == "gauge" else 0
        for pod, values in (
            ("a", f"{value}x20 stale"), ("b", f"_x19 {after}x30"), ("same", f"{value}x20 {after}x29"),
        ):  # fmt: skip
            series[f'{name}{{{labels}namespace="voice",pod="{pod}"}}'] = values
    tests = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in range(10, 50, 3)
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [tests]}))
    promtool("test", "rules", str(path))


def test_the_words_of_an_alert_are_filled_in(tmp_path: Path) -> None:
    """One of them to the letter; that the others' templates hold is what `check rules` looks at."""
    rule = alerts()["ParleyTurnsFailing"]
    fire, _ = FIRES["ParleyTurnsFailing"]
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in fire.items()],
        "alert_rule_test": [
            {
                "eval_time": "30m",
                "alertname": "ParleyTurnsFailing",
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": "critical", "namespace": "voice"},
                        "exp_annotations": {
                            "summary": "Replies fail in voice",
                            "description": "10% of the replies fail.",
                            "runbook_url": rule["annotations"]["runbook_url"],
                        },
                    }
                ],
            }
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_whole_and_refers_to_what_there_is(name: str) -> None:
    rule = alerts()[name]
    assert wrong_in(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert {"summary", "description", "runbook_url"} <= rule["annotations"].keys()
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings == [name, "What it means", "What the user hears", "Look at", "Do"]


def test_no_label_of_ours_is_one_that_scraping_adds() -> None:
    """Prometheus would rename it. These are what ServiceMonitor and PodMonitor add."""
    added = {"namespace", "pod", "job", "instance", "service", "container", "endpoint", "node"}
    assert {label for row in table().values() for label in row.labels} & added == set()


def test_a_stuck_drain_is_seen_before_its_pod_is_killed() -> None:
    overdue_s = float(alerts()["ParleyDrainStuck"]["expr"].rpartition(">")[2])
    for path in (ROOT / "helm" / "parley").glob("values*.yaml"):
        values = yaml.safe_load(path.read_text())
        scrape_s = 15  # monitoring.serviceMonitor.interval
        for part in (values.get("gateway", {}), values.get("speech", {})):
            if "drainSeconds" in part:
                left_s = part["terminationGracePeriodSeconds"] - part["drainSeconds"]
                assert left_s >= overdue_s + scrape_s, path.name


def test_settings_that_pages_name_are_there() -> None:
    for page in RUNBOOKS.glob("*.md"):
        for section, key in re.findall(r"`([a-z_]+)\.([a-z_]+)`", page.read_text(encoding="utf-8")):
            assert hasattr(getattr(Settings(), section, None), key), f"{page.name}: {section}.{key}"


def test_every_page_is_of_an_alert_and_names_metrics_that_exist() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == alerts().keys()
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in table()}
    for page in RUNBOOKS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for metric in metrics_in(text):
            assert metric in bare or not metric.startswith("parley_"), f"{page.name}: {metric}"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("sum(parley_nothing_total) > 0", "no such metric"),
        ('parley_turns_total{outcome="lost"} > 0', "never"),
        ('parley_turns_total{colour="red"} > 0', "no label"),
        ("sum by (colour) (parley_turns_total)", "grouped by"),
    ],
)
def test_a_mistake_in_an_expression_is_found(expression: str, says: str) -> None:
    (wrong,) = wrong_in(expression)
    assert says in wrong
