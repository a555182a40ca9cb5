"""Prints Grafana's dashboard: python scripts/dashboard.py > helm/parley/dashboards/parley.json"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

HERE = 'namespace=~"$namespace",pod=~"$pod"'
"""What every expression selects; a metric's own labels come before it."""
RATE = "[$__rate_interval]"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
STAGES = (
    "end_of_turn",
    "final_to_first_token",
    "first_token_to_first_sentence",
    "sentence_to_first_chunk",
    "first_chunk_to_first_audio",
)


@dataclass(frozen=True)
class Panel:
    title: str
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)."""
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    width: int = 8
    exemplars: bool = False


def of(metric: str, labels: str = "") -> str:
    return f"{metric}{{{labels + ',' if labels else ''}{HERE}}}"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    return f"sum {f'by ({by}) ' if by else ''}(rate({of(metric, labels)}{RATE}))"


def quantile(share: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(metric + '_bucket', labels)})"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, metric), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Conversation",
        (
            Panel(
                "Voice to voice",
                quantiles("parley_voice_to_voice_seconds"),
                "s",
                "End of the user's speech to the first audio of the reply. The points are traces.",
                width=12,
                exemplars=True,
            ),
            Panel(
                "Stages, median, one on top of the other",
                tuple(
                    (quantile(0.5, f"parley_{stage}_seconds"), stage.replace("_", " ")) for stage in STAGES
                ),
                "s",
                "Where the time between the end of speech and the reply goes.",
                stacked=True,
                width=12,
            ),
            Panel(
                "Stages, p95",
                tuple(
                    (quantile(0.95, f"parley_{stage}_seconds"), stage.replace("_", " "))
                    for stage in (*STAGES, "speech_end_to_final")
                ),
                "s",
            ),
            Panel(
                "Time to first audio, from the final transcript",
                quantiles("parley_final_to_first_audio_seconds"),
                "s",
                exemplars=True,
            ),
            Panel(
                "First chunk of a sentence, p95, by model",
                ((quantile(0.95, "parley_model_first_chunk_seconds", "model"), "{{model}}"),),
                "s",
                "A request handed to Triton to its first audio.",
            ),
        ),
    ),
    (
        "Turns",
        (
            Panel(
                "Replies by how they ended",
                ((rate("parley_turns_total", "outcome"), "{{outcome}}"),),
                "ops",
                stacked=True,
            ),
            Panel(
                "Barge-ins",
                ((rate("parley_barge_ins_total", "kind"), "{{kind}}"),),
                "ops",
                "Speech over a reply: true cut it, false let it go on.",
            ),
            Panel(
                "Barge-in to silence",
                quantiles("parley_barge_in_detect_to_flush_seconds"),
                "s",
            ),
            Panel("Holds of a reply", ((rate("parley_holds_total", "kind"), "{{kind}}"),), "ops"),
            Panel("Dropped, by reason", ((rate("parley_dropped_total", "reason"), "{{reason}}"),), "ops"),
            Panel(
                "Slow turns, replies thrown away",
                (
                    (rate("parley_slow_turns_total"), "slow"),
                    (rate("parley_replies_thrown_away_total"), "thrown away"),
                    (rate("parley_speech_thrown_away_seconds_total"), "speech thrown away, s/s"),
                ),
                "ops",
            ),
        ),
    ),
    (
        "Sessions",
        (
            Panel(
                "Sessions",
                (
                    (f"sum({of('parley_sessions_active')})", "active"),
                    (f"sum({of('parley_sessions_capacity')})", "capacity"),
                ),
                about="Open now, and how many there may be.",
            ),
            Panel(
                "Turned away, by reason",
                (
                    (rate("parley_refused_total", "reason"), "{{reason}}"),
                    (rate("parley_auth_refused_total", "reason"), "credential: {{reason}}"),
                ),
                "ops",
            ),
            Panel("Ended, by reason", ((rate("parley_sessions_total", "reason"), "{{reason}}"),), "ops"),
            Panel(
                "Resumed",
                (
                    (rate("parley_resumes_total", "outcome"), "{{outcome}}"),
                    (rate("parley_history_store_failures_total"), "store failed"),
                ),
                "ops",
            ),
            Panel(
                "Gateways that take sessions",
                (
                    (f"sum({of('parley_admitting')})", "admitting"),
                    (f"sum({of('parley_workers')})", "processes"),
                    (f"sum({of('parley_draining')})", "draining"),
                ),
            ),
            Panel(
                "Detector's backlog",
                (
                    (f"max({of('parley_vad_backlog_seconds')})", "now"),
                    (f"max({of('parley_vad_backlog_sustained_seconds')})", "as it lasts"),
                ),
                "s",
            ),
        ),
    ),
    (
        "Parts",
        (
            Panel(
                "Failures of parts",
                ((rate("parley_part_errors_total", "part, code"), "{{part}}: {{code}}"),),
                "ops",
            ),
            Panel(
                "Breakers",
                ((f"max by (part) ({of('parley_breaker_state')})", "{{part}}"),),
                about="0: closed; 1: one call tries; 2: the part is left alone.",
            ),
            Panel("LLM chunks", ((rate("parley_llm_chunks_total"), "chunks"),), "ops"),
        ),
    ),
    (
        "Models",
        (
            Panel(
                "Models resident",
                (
                    (f"max({of('parley_models_resident')})", "models"),
                    (f"max by (model) ({of('parley_model_leases')})", "holds on {{model}}"),
                ),
            ),
            Panel("Requests that wait", ((f"sum by (model) ({of('parley_model_queue')})", "{{model}}"),)),
            Panel(
                "Calls for speech",
                (
                    (f"sum by (kind) ({of('parley_speech_streams_active')})", "{{kind}}"),
                    (f"sum({of('parley_speech_streams_capacity')})", "capacity"),
                ),
            ),
            Panel(
                "Loads, evictions, repairs",
                (
                    (rate("parley_model_loads_total", "outcome"), "{{outcome}}"),
                    (rate("parley_model_failures_total", "model, reason"), "{{model}}: {{reason}}"),
                    (rate("parley_model_evictions_total", "because"), "evicted: {{because}}"),
                    (rate("parley_model_repairs_total"), "repaired"),
                ),
                "ops",
            ),
            Panel(
                "Time to load, p95",
                ((quantile(0.95, "parley_model_load_seconds", "model"), "{{model}}"),),
                "s",
            ),
            Panel(
                "Triton's queue, a request",
                (
                    (
                        f"{rate('nv_inference_queue_duration_us', 'model')}"
                        f" / {rate('nv_inference_request_success', 'model')}",
                        "{{model}}",
                    ),
                ),
                "µs",
            ),
        ),
    ),
    (
        "GPU",
        (
            Panel(
                "GPU in use",
                ((f"max by (gpu_uuid, pod) ({of('nv_gpu_utilization')})", "{{pod}} {{gpu_uuid}}"),),
                "percentunit",
                "As Triton reports it.",
            ),
            Panel(
                "GPU memory",
                (
                    (f"max by (gpu_uuid, pod) ({of('nv_gpu_memory_used_bytes')})", "used {{pod}}"),
                    (f"max by (gpu_uuid, pod) ({of('nv_gpu_memory_total_bytes')})", "total {{pod}}"),
                ),
                "bytes",
            ),
            Panel(
                "GPU power",
                ((f"max by (gpu_uuid, pod) ({of('nv_gpu_power_usage')})", "{{pod}} {{gpu_uuid}}"),),
                "watt",
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel(
                "Loop lag, p99",
                ((quantile(0.99, "parley_loop_lag_seconds", "pod"), "{{pod}}"),),
                "s",
                "How late timers run: every session of the process waits so long.",
            ),
            Panel(
                "Loop busy",
                ((rate("parley_loop_busy_seconds_total", "pod"), "{{pod}}"),),
                "percentunit",
                "Of one core, for each process of the pod.",
            ),
            Panel(
                "Stalls, and workers started again",
                (
                    (rate("parley_loop_stalls_total", "pod"), "stalls {{pod}}"),
                    (rate("parley_worker_restarts_total", "pod"), "restarts {{pod}}"),
                ),
                "ops",
            ),
            Panel(
                "CPU",
                ((rate("process_cpu_seconds_total", "pod"), "{{pod}}"),),
                "short",
                "Cores in use.",
            ),
            Panel(
                "Memory",
                ((f"sum by (pod) ({of('process_resident_memory_bytes')})", "{{pod}}"),),
                "bytes",
            ),
            Panel(
                "Files and tasks",
                (
                    (f"sum by (pod) ({of('process_open_fds')})", "files {{pod}}"),
                    (f"sum by (pod) ({of('parley_tasks')})", "tasks {{pod}}"),
                ),
            ),
            Panel(
                "Certificates, time left",
                (
                    (
                        f"min by (of) ({of('parley_certificate_expires_timestamp_seconds')}) - time()",
                        "{{of}}",
                    ),
                ),
                "s",
            ),
            Panel("Spans", ((rate("parley_spans_total", "outcome"), "{{outcome}}"),), "ops"),
            Panel(
                "What runs",
                ((f"count by (version, python) ({of('parley_build_info')})", "{{version}}, {{python}}"),),
                kind="table",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    ids = itertools.count(1)
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {
                "id": next(ids),
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + 8
            panels.append(_panel(panel, next(ids), x, y))
            x += panel.width
        y += 8
    return {
        "uid": "parley",
        "title": "Parley",
        "tags": ["parley", "voice"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                    "refresh": 1,
                },
                _variable("namespace", "label_values(parley_build_info, namespace)"),
                _variable("pod", 'label_values(parley_build_info{namespace=~"$namespace"}, pod)'),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
        "hide": 0,
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "exemplar": panel.exemplars and at == 0,
            "instant": panel.kind == "table",
            "range": panel.kind != "table",
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for at, (expression, legend) in enumerate(panel.queries)
    ]
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    custom = {"fillOpacity": 30 if panel.stacked else 5, "stacking": stacking, "showPoints": "never"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": 8},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        if panel.kind == "timeseries"
        else {},
        "targets": targets,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
