"""Shapes by a clock of the test's own: how many callers, when, and when a ramp ends."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from load.objective import Objective, Ramp, Seen, p95
from load.plans import SCENARIOS
from tests.unit.load.unpatched import shapes

UNIX = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shape(name: str, **options: Any) -> tuple[Any, Clock]:
    clock = Clock()
    made: Any = shapes.SHAPES[name](clock)
    parsed = argparse.Namespace(**{"num_users": None, "spawn_rate": None, "run_time": None, **options})
    made.runner = SimpleNamespace(environment=SimpleNamespace(parsed_options=parsed))
    clock.now += 50  # locust makes shapes long before a test begins
    made.reset_time()
    return made, clock


def ticks(made: Any, clock: Clock, seconds: int) -> list[Any]:
    seen = []
    for _ in range(seconds):
        seen.append(made.tick())
        clock.now += 1
    return seen


def test_every_scenario_has_a_shape() -> None:
    assert set(shapes.SHAPES) == set(SCENARIOS)


def test_baseline_is_one_caller_for_its_time() -> None:
    made, clock = shape("baseline")
    seen = ticks(made, clock, 26)
    assert {tick[0] for tick in seen[:25]} == {1}
    assert seen[25] is None


def test_common_options_go_before_a_scenarios_own() -> None:
    made, clock = shape("steady", num_users=40, spawn_rate=10.0, run_time=5)
    assert ticks(made, clock, 6) == [(40, 10.0)] * 5 + [None]


def test_a_spike_takes_five_seconds() -> None:
    made, clock = shape("spike", num_users=100, run_time=20)
    seen = ticks(made, clock, 21)
    assert seen[9] == (1, 1.0)
    assert seen[10] == (100, 20.0)
    assert seen[19] == (100, 20.0)
    assert seen[20] is None


def test_a_test_that_is_started_again_begins_anew() -> None:
    made, clock = shape("baseline")
    assert ticks(made, clock, 26)[-1] is None
    made.reset_time()
    assert made.tick()[0] == 1


def test_percentiles_are_of_raw_samples_and_count_what_never_came() -> None:
    assert p95([float(v) for v in range(1, 101)]) == 95
    assert p95([1.0] * 95 + [math.inf] * 5) == 1
    assert p95([1.0] * 94 + [math.inf] * 6) == math.inf
    assert math.isnan(p95([]))


def feed(objective: Objective, at: float, ms: float, *, ok: bool = True) -> None:
    objective.take(Seen(UNIX + at, "voice_to_voice", ms, ok))
    objective.take(Seen(UNIX + at, "turn", 5_000, ok))
    objective.take(Seen(UNIX + at, "connect", 5, True))


def climb(limit: int, *, slow_ms: float = 900, failing: float = 0.0, most: int = 100) -> Ramp:
    """A gateway that answers within 500 ms up to `limit` callers, each with a turn every 5 s."""
    ramp, wanted = Ramp(Objective()), 1
    for second in range(3_000):
        users = ramp.users(float(second), most)
        if users is None:
            return ramp
        wanted = users
        for k in range(max(1, wanted // 5) if second % 5 == 0 or wanted >= 5 else 0):
            over = wanted > limit
            ok = not (over and failing and (second * 7 + k) % 100 < failing * 100)
            feed(ramp.objective, second, slow_ms if over and not failing else 500, ok=ok)
    raise AssertionError("the ramp never ended")


def test_a_ramp_finds_where_it_gets_slow() -> None:
    ramp = climb(60)
    assert ramp.objective.baseline_ms == 500
    assert (ramp.held, ramp.broke_at) == (56, 61)
    assert "p95 voice to voice is 900 ms" in ramp.why
    assert [level["callers"] for level in ramp.levels] == [1, *range(6, 62, 5)]


def test_a_ramp_finds_where_turns_fail() -> None:
    ramp = climb(40, failing=0.1)
    assert (ramp.held, ramp.broke_at) == (36, 41)
    assert "turns failed" in ramp.why


def test_a_little_slower_is_no_reason_to_stop() -> None:
    ramp = climb(40, slow_ms=740)
    assert ramp.broke_at == 0
    assert ramp.held == 100
    assert "still holds at 100" in ramp.verdict()["text"]


def test_one_bad_window_is_looked_at_again() -> None:
    ramp, bad = Ramp(Objective(), step=10), (45.0, 49.0)
    for second in range(140):
        users = ramp.users(float(second), 100)
        assert users is not None
        for _ in range(max(1, users // 5)):
            feed(ramp.objective, second, 2_000 if bad[0] <= second < bad[1] else 500)
    assert not ramp.why
    assert ramp.held > 20


def test_a_gateway_that_never_answers_has_no_reference() -> None:
    ramp = Ramp(Objective())
    levels = []
    for second in range(0, 120, 10):
        levels.append(ramp.users(float(second), 100))
        feed(ramp.objective, second, 10_000, ok=False)
    assert levels[-1] is None
    assert "one caller alone got no answer" in ramp.why


def test_a_ramp_writes_its_verdict_into_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_LOAD_OUT", str(tmp_path))
    made, clock = shape("ramp", num_users=20, run_time=60)
    for second in range(60):
        made.saw([Seen(UNIX + second, "voice_to_voice", 400, True), Seen(UNIX + second, "turn", 1, True)])
        assert made.tick() is not None
        clock.now += 1
    assert made.tick() is None
    verdict = json.loads((tmp_path / "ramp.json").read_text())
    assert verdict["baseline_ms"] == 400
    assert verdict["broke_at"] is None
    assert verdict["held"] >= 1
    assert "the time was over" in verdict["text"]
