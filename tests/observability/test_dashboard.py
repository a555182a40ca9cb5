"""Grafana's dashboard: as its script makes it, whole, and every expression is one that Prometheus can work out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.observability.rules import DASHBOARD, ROOT, table, tool, wrong_in

UNITS = {"s", "ops", "short", "percentunit", "bytes", "watt", "µs"}
"""Ids of Grafana's units that are used."""


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def expressions() -> list[str]:
    """With Grafana's variables filled in."""
    found = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    return [re.sub(r"\$(namespace|pod)", ".*", one).replace("$__rate_interval", "5m") for one in found]


def test_it_is_what_its_script_makes() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboard.py")], capture_output=True, text=True, check=True
    ).stdout
    assert DASHBOARD.read_text(encoding="utf-8") == printed, (
        "run scripts/dashboard.py > helm/parley/dashboards/parley.json"
    )


def test_panels_are_whole_and_do_not_overlap() -> None:
    it = board()
    assert it["uid"] == "parley"
    assert isinstance(it["schemaVersion"], int)
    panels = it["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] in {"row", "timeseries", "table"}
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
    assert [variable["name"] for variable in it["templating"]["list"]] == ["datasource", "namespace", "pod"]


def test_what_it_has_to_show_is_there() -> None:
    titles = " ".join(panel["title"] for panel in board()["panels"]).casefold()
    for wanted in ("voice to voice", "stages", "barge-ins", "dropped", "sessions", "turned away", "resident"):
        assert wanted in titles
    first = next(panel for panel in board()["panels"] if panel["title"] == "Voice to voice")
    assert [target["legendFormat"] for target in first["targets"]] == ["p50", "p95", "p99"]
    assert first["targets"][0]["exemplar"] is True


def test_every_expression_refers_to_what_there_is_and_to_the_chosen_pods() -> None:
    assert len(expressions()) > 60
    for expression in expressions():
        assert wrong_in(expression) == [], expression
    for panel in board()["panels"]:
        for target in panel.get("targets", ()):
            selectors = re.findall(r"\b(?:parley|nv|process)_\w+(\{[^}]*\})?", target["expr"])
            assert selectors
            assert all('namespace=~"$namespace",pod=~"$pod"' in one for one in selectors)


def test_every_metric_of_ours_is_shown_somewhere() -> None:
    """But for those that say the same in another way."""
    text = " ".join(expressions())
    untold = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in table()
        if re.sub(r"_(bucket|sum|count)$", "", name) not in text
    }
    assert untold == {
        "parley_drain_overdue_seconds",  # an alert's
        "parley_model_resident",
        "parley_model_rolls_total",
        "parley_model_unloads_total",
        "parley_worker_sessions_active",
        "process_max_fds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }


def test_prometheus_can_work_out_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"parley:{at}", "expr": one} for at, one in enumerate(expressions())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
