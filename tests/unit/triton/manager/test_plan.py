"""The manager's decisions, and the states a model can be in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.settings import ModelsSettings
from gateway.triton.manager import plan
from gateway.triton.manager.plan import Occupant
from gateway.triton.manager.resident import IllegalTransition, Model
from gateway.triton.manager.types import NoRoom, State
from gateway.triton.model_info import ModelInfo
from tests.unit.triton.manager.fake_triton import info_of
from tests.unit.triton.manager.parts import virtual


def occupant(name: str, idle_s: float, **fields: object) -> Occupant:
    return Occupant(name, **({"memory_mb": 100, "since_s": 1e4, "idle_s": idle_s} | fields))  # type: ignore[arg-type]


def speaking(name: str, language: str) -> ModelInfo:
    return replace(info_of(name), languages=(language,))


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


def test_room_that_is_just_enough_is_enough() -> None:
    settings = ModelsSettings(max_memory_mb=1_000)
    assert plan.victims("new", 1_000, [], settings) == []
    assert plan.victims("new", 400, [occupant("a", 10, memory_mb=600)], settings) == []
    with pytest.raises(NoRoom, match=r"it needs 1001 MB, and all models together may have 1000 MB"):
        plan.victims("new", 1_001, [], settings)


def test_idle_for_as_long_they_go_by_name() -> None:
    there = [occupant("b", 10), occupant("a", 10)]
    assert plan.victims("new", 0, there, ModelsSettings(max_resident=2)) == [("a", "count")]


def test_of_small_ones_that_were_of_no_use_the_last_used_stays() -> None:
    there = [
        occupant("a", 90, memory_mb=100),
        occupant("b", 80, memory_mb=100),
        occupant("c", 70, memory_mb=350),
    ]
    gone = plan.victims("new", 500, there, ModelsSettings(max_memory_mb=650))
    assert gone == [("a", "memory"), ("c", "memory")]


def test_why_there_is_no_room_counts_each_model_once() -> None:
    settings = ModelsSettings(max_resident=3, min_residency_s=120)
    there = [
        occupant("a", 0, leased=True, pinned=True, since_s=1.0),
        occupant("b", 10, pinned=True, since_s=1.0),
        occupant("c", 10, since_s=1.0),
    ]
    with pytest.raises(NoRoom) as raised:
        plan.victims("new", 0, there, settings)
    assert str(raised.value) == (
        "no room for new: 3 of 3 models are resident"
        " (1 in use, 1 kept on purpose, 1 loaded less than 120 s ago)"
    )


def test_idle_time_is_nothing_to_models_of_others_and_under_change() -> None:
    settings = ModelsSettings(ttl_s=60, min_residency_s=0)
    assert plan.ttl_left_s(occupant("a", 1_000, foreign=True), settings) is None
    assert plan.ttl_left_s(occupant("a", 1_000, changing=True), settings) is None
    assert plan.ttl_left_s(occupant("a", 1_000), settings) == 0


def test_versions_of_a_config_are_those_that_it_names_and_no_others() -> None:
    config = ModelConfig()
    assert plan.wanted_version(config, [1, 2, 10]) == "10"
    config.version_policy.specific.versions.extend([1, 2])
    assert plan.wanted_version(config, [1, 2, 10]) == "2"
    assert list(plan.with_versions(config, ["10", "9"]).version_policy.specific.versions) == [9, 10]
    assert plan.with_newest(config, 2).version_policy.latest.num_versions == 2
    assert list(config.version_policy.specific.versions) == [1, 2]
    assert plan.number("draft") == 0


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
