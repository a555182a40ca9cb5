from __future__ import annotations

import json
import math

from bench.report import SAMPLE_COLUMNS, Part, Table, as_json, markdown, row
from bench.stats import FAILED, percentile, summarise


def test_a_percentile_is_a_sample_never_in_between() -> None:
    samples = [40.0, 10.0, 30.0, 20.0]
    assert percentile(samples, 0.5) == 20.0
    assert percentile(samples, 0.95) == 40.0
    assert percentile(samples, 0.0) == 10.0
    assert math.isnan(percentile([], 0.5))


def test_what_failed_is_late_not_absent() -> None:
    found = summarise([10.0, 20.0, FAILED])
    assert (found.count, found.failed, found.p50, found.p95) == (3, 1, 20.0, FAILED)


def test_a_goal_is_missed_when_too_many_samples_fail() -> None:
    assert "met" in row("delay", [10.0] * 19 + [FAILED], p95=20)[1]
    assert "MISSED" in row("delay", [10.0] * 18 + [FAILED] * 2, p95=20)[1]
    assert "MISSED" in row("delay", [], p50=20)[1]


def test_tables_are_markdown_and_failures_are_words() -> None:
    lines = markdown(Table(SAMPLE_COLUMNS, [row("delay", [12.4, FAILED])])).splitlines()
    assert lines[1].startswith("|--")
    assert lines[2].split("|")[1:-1] == [
        cell.ljust(width + 2)
        for cell, width in zip(
            [" delay", " ", " 2", " 1", " 12", " 12", " never", " never"],
            [max(len(c), len(v)) for c, v in zip(SAMPLE_COLUMNS, ["delay", "", "2", "1", "12", "12", "never", "never"], strict=True)],
            strict=True,
        )
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1


def test_json_has_no_infinity() -> None:
    part = Part("p", "title", "about", data={"samples": [1.23456, FAILED]})
    found = json.loads(as_json({"cpu": "x"}, [part]))
    assert found["parts"]["p"]["data"]["samples"] == [1.235, None]
