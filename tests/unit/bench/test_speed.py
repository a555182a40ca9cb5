"""The table of speed: goals, verdicts, and what a core is said to carry."""

from __future__ import annotations

from typing import Any

from bench import speed


def summary(
    sessions: int = 64, *, v2v_p95: float = 700.0, late: float = 0.0, **changed: Any
) -> dict[str, Any]:
    spread = {"p50": 500.0, "p95": v2v_p95}
    found: dict[str, Any] = {
        "sessions": sessions,
        "samples": dict.fromkeys(("voice_to_voice", "barge_in", "detect_to_stale"), spread),
        "turns": {"failed_share": 0.0},
        "gateway": {
            "cpu_cores": 0.5, "cpu_s_per_session_minute": 0.47, "memory_per_session_mb": 0.8,
            "vad_backlog_ms": {"p95": 30.0},
        },
        "frames": {"late_share": late, "jitter_p99_ms": 4.0},
        "overhead_ms": {"p50": 12.0},
        "generator": {"core_b": 0.4, "send_late_p99_ms": 1.5},
        "void": [],
        "disturbed": "",
    }  # fmt: skip
    return found | changed


def test_the_middle_of_the_rounds_is_held_against_the_goal() -> None:
    runs = {point.name: [summary() for _ in range(3)] for point in speed.POINTS}
    cheap, dear = summary(), summary()
    cheap["gateway"] = {**cheap["gateway"], "cpu_s_per_session_minute": 0.40}
    dear["gateway"] = {**dear["gateway"], "cpu_s_per_session_minute": 0.60}
    runs["64"] = [dear, cheap, summary()]
    first = speed.goals_table(runs).rows[0]
    assert first[1:] == ["0.470 (0.400 … 0.600)", "≤ 0.55", "met"]
    runs["64"] = [dear, dear, cheap]
    assert speed.goals_table(runs).rows[0][3] == "MISSED"


def test_what_never_came_misses_its_goal() -> None:
    runs = {point.name: [summary()] for point in speed.POINTS}
    runs["64"] = [summary(samples={})]
    row = next(row for row in speed.goals_table(runs).rows if "defaults, p50, 64" in row[0])
    assert row[1:] == ["never (never … never)", "≤ 970", "MISSED"]


def test_a_number_of_sessions_is_carried_when_nothing_breaks() -> None:
    assert speed.why_not(summary(v2v_p95=839), 700.0) == ""
    assert "1.2 ×" in speed.why_not(summary(v2v_p95=841), 700.0)
    assert "late" in speed.why_not(summary(late=0.011), 700.0)
    assert "turns failed" in speed.why_not(summary(turns={"failed_share": 0.01}), 700.0)
    assert "void" in speed.why_not(summary(void=["The callers sent late."]), 700.0)
    behind = summary()
    behind["gateway"] = {**behind["gateway"], "vad_backlog_ms": {"p95": 400.0}}
    assert "detector" in speed.why_not(behind, 700.0)


def test_the_ladder_ends_where_it_breaks(monkeypatch: Any) -> None:
    def run(point: speed.Point, *, seed: int) -> dict[str, Any]:
        return summary(point.sessions, late=0.05 if point.sessions > 110 else 0.0)

    monkeypatch.setattr(speed, "_run", run)
    steps = speed.ladder(700.0)
    assert [step["sessions"] for step in steps] == [96, 110, 125]
    assert speed.ladder_table(steps, 700.0).rows[-2][-1] == "carried"
    assert "110 (goal ≥ 110: met)" in speed._limit(steps, 700.0)
