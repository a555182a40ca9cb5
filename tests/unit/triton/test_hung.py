"""Which processes of models have been starting for too long."""

from __future__ import annotations

from gateway.triton.hung import Overdue
from gateway.triton.process import Stub

_OLD, _NEW = Stub("tts_a", "tts_a_0_0"), Stub("tts_a", "tts_a_0_0")


def test_a_process_whose_model_still_loads_after_its_time_is_overdue() -> None:
    overdue = Overdue(10.0)
    assert overdue.look({1: _OLD}, {"tts_a"}, 100.0) == []
    assert overdue.look({1: _OLD}, {"tts_a"}, 111.9) == []
    assert overdue.look({1: _OLD}, {"tts_a"}, 112.1) == [1]


def test_a_process_that_serves_stays_while_a_new_version_hangs() -> None:
    overdue = Overdue(10.0)
    assert overdue.look({1: _OLD}, (), 0.0) == []
    assert overdue.look({1: _OLD, 2: _NEW}, {"tts_a"}, 50.0) == []
    assert overdue.look({1: _OLD, 2: _NEW}, {"tts_a"}, 70.0) == [2]


def test_a_pid_that_comes_again_begins_anew() -> None:
    overdue = Overdue(10.0)
    assert overdue.look({1: _OLD}, (), 0.0) == []
    assert overdue.look({}, (), 1.0) == []
    assert overdue.look({1: _NEW}, {"tts_a"}, 20.0) == []
    assert overdue.look({1: _NEW}, {"tts_a"}, 33.0) == [1]
