"""What alerts and dashboards may refer to: our own table of metrics, and what Triton documents."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "reference" / "metrics.md"
ALERTS = ROOT / "helm" / "parley" / "alerts" / "parley.yaml"
DASHBOARD = ROOT / "helm" / "parley" / "dashboards" / "parley.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
OF_SCRAPING = {"namespace", "pod", "job", "instance"}
"""Labels that Prometheus adds."""
TRITON: dict[str, set[str]] = {
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
    "nv_gpu_memory_total_bytes": {"gpu_uuid"},
    "nv_gpu_power_usage": {"gpu_uuid"},
    "nv_inference_queue_duration_us": {"model", "version"},
    "nv_inference_request_success": {"model", "version"},
}
"""Of the tables in docs/user_guide/metrics.md of the server's own repository."""
_METRIC = re.compile(r"\b(?:parley|nv|process|DCGM)_\w+")
_SELECTOR = re.compile(r"\b((?:parley|nv|process)_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@dataclass(frozen=True)
class Row:
    """Of the table of metrics."""

    kind: str
    labels: dict[str, set[str]]
    """Values by label; empty: any."""


def table() -> dict[str, Row]:
    """Every series name that the table stands for: a histogram's are three."""
    found: dict[str, Row] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        name, kind, label_cell, _ = (cell.strip() for cell in line.strip("|").split("|"))
        labels = {}
        for one in re.finditer(r"`(\w+)`(?:: ([^;`]*))?", label_cell):
            words = {word.strip() for word in (one[2] or "").split(",")}
            plain = all(re.fullmatch(r"[\w]+", word) for word in words)
            labels[one[1]] = words if plain else set()
        name = name.strip("`")
        if kind == "histogram":
            for end in ("_bucket", "_sum", "_count"):
                more: dict[str, set[str]] = {"le": set()} if end == "_bucket" else {}
                found[name + end] = Row(kind, labels | more)
        else:
            found[name] = Row(kind, labels)
    return found


def metrics_in(expression: str) -> set[str]:
    return set(_METRIC.findall(re.sub(r'"[^"]*"', '""', expression)))


def wrong_in(expression: str) -> list[str]:
    """What an expression refers to that nothing has."""
    known, wrong = table(), []
    labels_there = set(OF_SCRAPING)
    for metric in metrics_in(expression):
        if metric in known:
            labels_there |= known[metric].labels.keys()
        elif metric in TRITON:
            labels_there |= TRITON[metric]
        else:
            wrong.append(f"no such metric: {metric}")
    for metric, inside in _SELECTOR.findall(expression):
        row = known.get(metric)
        for label, _, value in _MATCHER.findall(inside):
            has = row.labels if row is not None else {key: set[str]() for key in TRITON.get(metric, ())}
            if label not in has and label not in OF_SCRAPING:
                wrong.append(f"{metric} has no label {label}")
            elif (words := has.get(label)) and not set(value.split("|")) <= words:
                wrong.append(f"{metric}: {label} is never {value!r}")
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        wrong += [
            f"grouped by {label}, which none of {sorted(metrics_in(expression))} has"
            for label in (word.strip() for word in by.split(","))
            if label not in labels_there
        ]
    return wrong


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Of every metric that is asked for by label values: its name and [label, operator, value]."""
    return [(metric, _MATCHER.findall(inside)) for metric, inside in _SELECTOR.findall(expression)]


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in found}) == len(found)
    return {rule["alert"]: rule for rule in found}


def tool(name: str) -> str:
    """promtool or prometheus; skips without, but not in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not there: install Debian's package prometheus")
        pytest.skip(f"{name} is not there")
    return found
