"""A run folder as summary and page: percentiles with failures, levels, slopes, verdicts, one self-contained file."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from load.report import compare
from load.report.build import build
from load.report.data import read
from load.report.figures import percentile, slope, student_t
from load.report.levels import levels, voice_to_voice
from load.report.page import verdict
from load.report.svg import axis_to, short
from load.report.text import text
from load.report.waterfall import stages
from tests.unit.load.made_run import EPOCH, make_run


def test_percentiles_are_measured_values_and_failures_are_infinitely_late() -> None:
    values = [10.0, 20.0, 30.0, math.inf]
    assert percentile(values, 0.5) == 20.0
    assert percentile(values, 0.75) == 30.0
    assert percentile(values, 0.76) == math.inf
    assert math.isnan(percentile([], 0.5))


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (30, 2.042)])
def test_students_t(freedom: int, t: float) -> None:
    assert student_t(0.975, freedom) == pytest.approx(t, rel=0.01)


def test_a_slope_finds_a_leak_and_calls_noise_noise() -> None:
    dice = np.random.default_rng(1)
    x = np.arange(600, dtype=np.float64)
    flat = slope(x, 100 + dice.normal(0, 1, 600))
    leak = slope(x, 100 + 0.01 * x + dice.normal(0, 1, 600))
    assert flat is not None
    assert leak is not None
    assert flat.within_noise
    assert not leak.within_noise
    assert leak.per_x == pytest.approx(0.01, rel=0.2)
    assert leak.low < 0.01 < leak.high
    assert slope(x[:3], x[:3]) is None
    assert slope(np.ones(9), x[:9]) is None


def test_a_failed_turn_counts_as_voice_to_voice_that_never_came(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sessions=1, seconds=30)
    with (folder / "samples.csv").open("a") as file:
        file.write(f"{EPOCH + 20},0,99,turn,5000,0,no_reply\n")  # no latency of its own
        file.write(
            f"{EPOCH + 25},0,100,voice_to_voice,9000,0,timeout\n{EPOCH + 25},0,100,turn,9000,0,timeout\n"
        )
    _, ms = voice_to_voice(read(folder))
    assert np.isinf(ms).sum() == 2
    summary = build(folder)
    assert summary["samples"]["voice_to_voice"]["failures"] == 2
    assert summary["turns"]["failed"] == 2
    assert {(f["sample"], f["why"]) for f in summary["failures"]} >= {
        ("turn", "no_reply"),
        ("turn", "timeout"),
    }


def test_the_summary_holds_the_figures_of_the_run(tmp_path: Path) -> None:
    summary = build(make_run(tmp_path, sessions=16))
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["sessions"] == summary["sessions"] == 16
    assert 500 < written["samples"]["voice_to_voice"]["p50"] < 560
    # 0.02 + 0.0065 × 16 cores
    assert written["gateway"]["cpu_s_per_session_minute"] == pytest.approx(60 * 0.124 / 16, rel=0.05)
    assert written["gateway"]["memory_per_session_mb"] == pytest.approx(0.6, rel=0.1)
    assert written["overhead_ms"]["parts_ms"] == 40 + 138 + 78
    assert 0 < written["overhead_ms"]["p50"] < 30
    assert written["frames"]["n"] > 1_000
    assert written["frames"]["late_share"] < 0.01
    assert written["void"] == []
    assert verdict(summary)[1] == "Held"


@pytest.mark.parametrize(
    ("change", "said"), [({"send_late_ms": 7.0}, "sent late"), ({"sessions": 1, "seconds": 3}, "No turn")]
)
def test_a_run_that_says_nothing_of_the_gateway_is_void(
    tmp_path: Path, change: dict[str, float], said: str
) -> None:
    summary = build(make_run(tmp_path, **change))  # type: ignore[arg-type]
    assert verdict(summary)[1] == "VOID"
    assert said in " ".join(summary["void"])
    assert "VOID" in (tmp_path / "report.html").read_text()
    assert "VOID" in text(summary)


def test_failed_turns_break_the_verdict(tmp_path: Path) -> None:
    summary = build(make_run(tmp_path, failing=0.1))
    assert verdict(summary)[1] == "Did not hold"


def test_a_ramp_has_levels_and_a_limit(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sessions=140, steps=7, seconds=140, scenario="ramp")
    summary = build(folder)
    assert [level.sessions for level in levels(read(folder))] == [20, 40, 60, 80, 100, 120, 140]
    assert summary["limit"]["broke_at"] in (80, 100, 120)
    assert summary["limit"]["held"] < summary["limit"]["broke_at"]
    cores = [level["cpu_cores"] for level in summary["levels"]]
    assert cores == sorted(cores)
    page = (folder / "report.html").read_text()
    assert "Sessions against latency" in page
    assert "Sessions against CPU" in page


def test_a_leak_shows_in_a_long_run(tmp_path: Path) -> None:
    leaky = build(make_run(tmp_path / "leaky", seconds=300, sessions=4, leak_mb_per_s=0.05))
    sound = build(make_run(tmp_path / "sound", seconds=300, sessions=4))
    assert leaky["slopes"]["rss"]["low"] > 0
    assert leaky["slopes"]["rss"]["per_hour"] == pytest.approx(180, rel=0.1)
    assert any("slope of memory" in check["name"] and not check["ok"] for check in leaky["checks"])
    assert all(check["ok"] for check in sound["checks"] if "slope" in check["name"])


def test_the_stages_of_a_turn_add_up_to_its_latency(tmp_path: Path) -> None:
    run = read(make_run(tmp_path))
    whole = np.sort(run.of("voice_to_voice").ms)
    assert np.allclose(np.sort(sum(ms for _, _, ms in stages(run))), whole)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing(tmp_path: Path) -> None:
    build(make_run(tmp_path / "old", slower=1.2))
    build(make_run(tmp_path / "new", failing=0.02), tmp_path / "old")
    page = (tmp_path / "new" / "report.html").read_text()
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert {"svg", "table", "figure", "style", "script"} <= parser.seen
    assert parser.outside == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "nan" not in re.findall(r"[\d. M]*\bnan\b", page)
    for title in (
        "Voice to voice",
        "Where the time of a turn goes",
        "Frame jitter",
        "CPU over time",
        "Memory over time",
    ):
        assert title in page


def test_texts_from_a_server_cannot_become_markup(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sessions=1, seconds=30)
    with (folder / "samples.csv").open("a") as file:
        file.write(f"{EPOCH + 20},0,99,turn,5000,0,error:<script>alert(1)</script>\n")
    build(folder)
    assert "<script>alert" not in (folder / "report.html").read_text()


def test_two_runs_beside_each_other(tmp_path: Path) -> None:
    old = build(make_run(tmp_path / "old"))
    new = build(make_run(tmp_path / "new", slower=1.3, seed=9), tmp_path / "old")
    row = next(row for row in compare.times(new, old, "p50") if row[0] == "End of turn")
    assert compare.ratio(row[1], row[2]) == pytest.approx(1.3, rel=0.1)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Against the run before" in page
    assert 'class="worse"' in page
    assert '<em class="was worse">was' in page


@pytest.mark.parametrize(
    ("before", "now", "ratio", "word"),
    [(100, 100, 1, ""), (100, 104, 1.04, ""), (100, 150, 1.5, "worse"), (100, 50, 0.5, "better"), (0, 0, 1, ""),
     (0, 1, math.inf, "worse"), (math.inf, 5, 0, "better"), (5, math.inf, math.inf, "worse")],
)  # fmt: skip
def test_what_a_change_is_called(before: float, now: float, ratio: float, word: str) -> None:
    assert compare.ratio(before, now) == pytest.approx(ratio)
    assert compare.word(compare.ratio(before, now)) == word


def test_a_cut_run_can_still_be_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sessions=4, seconds=30)
    for name in ("samples.csv", "frames.csv"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-7])
    assert build(folder)["turns"]["n"] > 3


def test_axes_end_at_round_numbers() -> None:
    assert axis_to(873).high == 1000
    assert axis_to(0.93).high == 1.0
    assert axis_to(math.nan).high == 1.0
    assert short(1500) == "1 500"
    assert short(0.25) == "0.25"


def test_a_storm_of_calls_without_a_turn_is_told_by_its_calls(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sessions=4, seconds=20)
    rows = ["t_s,caller,turn,name,ms,ok,why"]
    for k in range(100):
        ok, why = (0, "refused:UNAVAILABLE") if k % 50 == 0 else (1, "")
        t = EPOCH + 0.2 * k
        rows += [f"{t},{k},0,connect,5,{ok},{why}", f"{t + 0.1},{k},0,session,100,{ok},{why}"]
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    summary = build(folder)
    assert summary["void"] == []
    assert summary["calls"]["begun_per_s"] == pytest.approx(4.95, rel=0.05)
    assert summary["calls"]["failed_share"] == 0.02
    assert verdict(summary)[1] == "Did not hold"
    assert "New calls a second" in (folder / "report.html").read_text()
