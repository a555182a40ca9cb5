"""The manager's decisions, and the states a model can be in."""

from __future__ import annotations

import pytest

from gateway.settings import ModelsSettings
from gateway.triton.manager import plan
from gateway.triton.manager.plan import Occupant
from gateway.triton.manager.resident import IllegalTransition, Model
from gateway.triton.manager.types import NoRoom, State
from tests.unit.triton.manager.fake_triton import info_of
from tests.unit.triton.manager.parts import virtual


def occupant(name: str, idle_s: float, **fields: object) -> Occupant:
    return Occupant(name, **({"memory_mb": 100, "since_s": 1e4, "idle_s": idle_s} | fields))  # type: ignore[arg-type]


def test_the_least_recently_used_go_and_no_more_than_it_takes() -> None:
    settings = ModelsSettings(max_resident=3)
    there = [occupant("a", 10), occupant("b", 50), occupant("c", 30), occupant("d", 40)]
    assert plan.victims("new", 0, there, settings) == [("b", "count"), ("d", "count")]
    assert plan.victims("a", 0, there, settings) == [("b", "count")]  # it is one of them itself
    assert plan.victims("new", 0, there[:2], settings) == []


def test_pinned_leased_changing_and_young_ones_stay() -> None:
    settings = ModelsSettings(max_resident=1, min_residency_s=120)
    for stays in ({"pinned": True}, {"leased": True}, {"changing": True}, {"since_s": 119.0}):
        with pytest.raises(NoRoom):
            plan.victims("new", 0, [occupant("a", 100, **stays)], settings)
    assert plan.victims("new", 0, [occupant("a", 100, since_s=120.0)], settings)


def test_a_model_that_declares_no_memory_is_not_sent_away_for_memory() -> None:
    settings = ModelsSettings(max_memory_mb=1_000)
    there = [occupant("none", 900, memory_mb=0), occupant("much", 10, memory_mb=900)]
    assert plan.victims("new", 500, there, settings) == [("much", "memory")]
    assert plan.victims("new", 0, there, settings) == []


def test_idle_time_waits_for_minimum_residency() -> None:
    settings = ModelsSettings(ttl_s=60, min_residency_s=120)
    assert plan.ttl_left_s(occupant("a", 50, since_s=50.0), settings) == 70
    assert plan.ttl_left_s(occupant("a", 50, since_s=500.0), settings) == 10
    assert plan.ttl_left_s(occupant("a", 50, leased=True), settings) is None
    assert plan.ttl_left_s(occupant("a", 50), ModelsSettings(ttl_s=0)) is None
    assert plan.next_by_ttl(
        [occupant("a", 5), occupant("b", 50), occupant("c", 1e6, pinned=True)], settings
    ) == ("b", 10)


def test_the_back_off_doubles_up_to_five_minutes() -> None:
    settings = ModelsSettings(backoff_s=5)
    assert [plan.backoff_s(n, settings) for n in (0, 1, 2, 3, 7, 8, 10_000)] == [0, 5, 10, 20, 300, 300, 300]


def test_defaults_prefer_what_says_so_then_what_needs_no_gpu_then_the_name() -> None:
    models = [
        info_of("tts_c"), info_of("tts_b", needs_gpu=True), info_of("tts_a", needs_gpu=True),
        info_of("tts_z", default=True, needs_gpu=True), info_of("asr_a"),
    ]  # fmt: skip
    assert [one.name for one in plan.default_candidates(models, "tts")] == [
        "tts_z",
        "tts_c",
        "tts_a",
        "tts_b",
    ]


def test_versions_are_numbers_not_texts() -> None:
    assert plan.newest(["9", "10", "2"]) == "10"
    assert plan.ascending(["9", "10", "2"]) == ("2", "9", "10")


@virtual
async def test_what_makes_no_sense_raises() -> None:
    model = Model("m")
    with pytest.raises(IllegalTransition):
        model.to(State.DRAINING)
    with pytest.raises(IllegalTransition):
        model.give("1", 0.0)  # no negative count
    model.to(State.LOADING)
    with pytest.raises(IllegalTransition):
        model.to(State.UNLOADING)
    model.resident_since(5.0, ("1",), "1")
    model.take("1")
    model.to(State.ABSENT)
    assert (model.versions, model.serving, model.leases) == ((), "", 1)
