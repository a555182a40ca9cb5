"""The guard: what it compares, and when it says no."""

from __future__ import annotations

import json
import math

import pytest

from bench import guard


def figures(**changed: float) -> dict[str, float]:
    return {figure.key: 1.0 for figure in guard.FIGURES} | changed


def test_as_dear_as_before_is_well() -> None:
    rows, dearer = guard.compared(figures(), figures())
    assert len(rows) == len(guard.FIGURES)
    assert not dearer


def test_a_quarter_more_is_the_limit() -> None:
    assert not guard.compared(figures(work_32=1.25), figures())[1]
    assert guard.compared(figures(work_32=1.26), figures())[1] == [
        "the same in units of the fixed work, 32 sessions"
    ]


def test_raw_seconds_depend_on_the_machine_and_are_only_shown() -> None:
    assert not guard.compared(figures(per_session_minute_32=9.0), figures())[1]


def test_what_was_not_measured_is_not_well() -> None:
    assert guard.compared(figures(memory_mb=math.nan), figures())[1] == ["MB a session, 32 sessions"]


def test_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    committed = json.loads(guard.COMMITTED.read_text())["figures"]
    assert {figure.key for figure in guard.FIGURES} == set(committed)
    monkeypatch.setattr(guard, "measure", lambda: committed)
    assert guard.main() == 0
    monkeypatch.setattr(guard, "measure", lambda: committed | {"work_1": committed["work_1"] * 1.3})
    assert guard.main() == 1
    assert "dearer than it may be" in capsys.readouterr().out

    def fails() -> dict[str, float]:
        raise RuntimeError("the run of 32 callers gave no figures: why")

    monkeypatch.setattr(guard, "measure", fails)
    assert guard.main() == 1


def test_the_fixed_work_takes_a_measurable_time() -> None:
    assert 0.001 < guard.fixed_work_s() < 5
