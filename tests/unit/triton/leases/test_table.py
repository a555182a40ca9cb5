"""The lease table as a state machine: any processes, any order of words, any pauses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.triton.leases.table import LOAD, UNLOAD, Table

LEASE_S = 15.0
MODELS = ("asr_a", "tts_b", "tts_c")
PROCESSES = ("gateway", "speech", "cli")


@dataclass
class Process:
    """What a process believes, and what of it the table cannot know any more."""

    name: str
    seq: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    heard_at: float = float("-inf")

    def word(self, **more: Any) -> dict[str, Any]:
        self.seq += 1
        return {
            "holder": self.name,
            "label": self.name,
            "seq": self.seq,
            "lease_s": LEASE_S,
            "holds": dict(self.holds),
            "changes": dict(self.changes),
            **more,
        }


def word(holder: str, seq: int, **more: Any) -> dict[str, Any]:
    return {"holder": holder, "label": holder, "seq": seq, "lease_s": LEASE_S, **more}


def begin(model: str, change: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "change": change, **more}


def end(model: str, change: str, *, ok: bool = True, **more: Any) -> dict[str, Any]:
    return {"model": model, "change": change, "ok": ok, **more}


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.table = Table(self.now, name="first", grace_s=0.0)
        self.processes = {name: Process(name) for name in PROCESSES}
        self.late: list[dict[str, Any]] = []

    def tell(self, process: Process, **more: Any) -> dict[str, Any]:
        message = process.word(**more)
        self.late.append(message)
        answer = self.table.tell(message, self.now)
        process.heard_at = self.now
        for name in answer["lost"]:
            del process.changes[name]
        return answer

    def is_alive(self, process: Process) -> bool:
        """Whether the table still has to believe its last word."""
        return self.now <= process.heard_at + LEASE_S

    def in_force(self, model: str) -> list[Process]:
        return [p for p in self.processes.values() if self.is_alive(p) and model in p.holds]

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS))
    def hold(self, name: str, model: str) -> None:
        process = self.processes[name]
        if model in process.holds:
            process.holds[model] += 1
            self.tell(process)
            return
        refusal = self.tell(process, wants=[model])["wants"][model]
        changer = [p for p in self.processes.values() if p.changes.get(model) == UNLOAD and self.is_alive(p)]
        assert (refusal is not None) == bool(changer)
        if refusal is None:
            process.holds[model] = 1

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS))
    def hold_and_drop_changes_nothing_but_the_time_of_use(self, name: str, model: str) -> None:
        process = self.processes[name]
        self.tell(process)
        before = self.shape()
        if self.tell(process, wants=[model])["wants"][model] is None:
            self.tell(process)
        assert self.shape() == before

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS))
    def drop(self, name: str, model: str) -> None:
        process = self.processes[name]
        if process.holds.get(model, 0) > 1:
            process.holds[model] -= 1
        else:
            process.holds.pop(model, None)
        self.tell(process)

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS), most=st.integers(0, 2))
    def begin_load(self, name: str, model: str, most: int) -> None:
        process = self.processes[name]
        refusal = self.tell(process, begins=[begin(model, LOAD, max_loads=most)])["begins"][0]
        if refusal is None:
            alive = [p for p in self.processes.values() if self.is_alive(p)]
            loading = {m for p in alive for m, change in p.changes.items() if change == LOAD}
            assert not most or len(loading) < most
            process.changes[model] = LOAD

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS), force=st.booleans())
    def begin_unload(self, name: str, model: str, force: bool) -> None:
        process = self.processes[name]
        refusal = self.tell(process, begins=[begin(model, UNLOAD, force=force)])["begins"][0]
        if refusal is None:
            assert force or not self.in_force(model), "unloaded under a living process's lease"
            process.changes[model] = UNLOAD

    @rule(name=st.sampled_from(PROCESSES), model=st.sampled_from(MODELS), ok=st.booleans())
    def end_change(self, name: str, model: str, ok: bool) -> None:
        process = self.processes[name]
        change = process.changes.pop(model, None)
        if change is not None:
            before = self.table.records(self.now)[model]["reason"]
            self.tell(process, ends=[end(model, change, ok=ok, reason="broken", load_s=1.5)])
            record = self.table.records(self.now)[model]
            # One that was silent for too long was given up: somebody else may be at it by now.
            others = [
                p.changes[model] for p in self.processes.values() if self.is_alive(p) and model in p.changes
            ]
            assert record["change"] == (others[0] if others else "")
            assert record["reason"] == (before if others else "" if ok else "broken")

    @rule(name=st.sampled_from(PROCESSES))
    def beat(self, name: str) -> None:
        self.tell(self.processes[name])

    @rule(pick=st.randoms(use_true_random=False))
    def an_old_word_comes_again(self, pick: Any) -> None:
        if self.late:
            message = pick.choice(self.late)
            known = self.table.holders.get(message["holder"])
            before = self.shape()
            if known is not None and known.seen + LEASE_S >= self.now:
                assert self.table.tell(message, self.now).get("stale")
                assert self.shape() == before

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 14.0, 16.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(PROCESSES))
    def a_process_dies_and_another_comes(self, name: str) -> None:
        self.now += LEASE_S + 0.1
        self.processes[name] = Process(name, seq=self.processes[name].seq)

    @rule()
    def the_table_is_lost(self) -> None:
        self.table = Table(self.now, name="another", grace_s=LEASE_S)
        for process in self.processes.values():
            for model, change in list(process.changes.items()):
                if not self.is_alive(process) and change:
                    del process.changes[model]
            self.tell(process)

    def shape(self) -> dict[str, Any]:
        return {
            name: (record["holders"], record["sessions"], record["change"], record["since_s"])
            for name, record in self.table.records(self.now).items()
            if record["holders"] or record["change"] or record["since_s"] is not None
        }

    @invariant()
    def the_table_says_what_the_living_said(self) -> None:
        for model, record in self.table.records(self.now).items():
            holders = self.in_force(model)
            assert record["holders"] == len(holders)
            assert record["sessions"] == sum(p.holds[model] for p in holders)
            changers = [p for p in self.processes.values() if self.is_alive(p) and model in p.changes]
            assert len(changers) <= 1, "two processes change one model"
            assert record["change"] == (changers[0].changes[model] if changers else "")
            assert record["idle_s"] >= 0
            assert (record["idle_s"] == 0) or not holders


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_new_table_refuses_to_unload_until_every_process_has_told() -> None:
    table = Table(0.0, name="t", grace_s=LEASE_S)
    refused = table.tell(word("a", 1, begins=[begin("m", UNLOAD)]), 5.0)["begins"][0]
    assert refused["kind"] == "not_now"
    assert refused["wait_s"] == pytest.approx(10.0)
    assert table.tell(word("a", 2, begins=[begin("m", UNLOAD, force=True)]), 6.0)["begins"] == [None]
    table.tell(word("a", 3), 7.0)
    assert table.tell(word("a", 4, begins=[begin("m", UNLOAD)]), 14.9)["begins"] != [None]
    assert table.tell(word("a", 5, begins=[begin("m", UNLOAD)]), 15.0)["begins"] == [None]


def test_a_process_holds_to_the_end_of_its_lease_and_no_longer() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, holds={"m": 1}), 0.0)
    assert table.records(LEASE_S)["m"]["holders"] == 1
    assert table.records(LEASE_S + 0.1)["m"]["holders"] == 0


def test_one_session_more_is_not_one_instead() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, holds={"m": 3}, wants=["m"]), 0.0)
    assert table.records(0.0)["m"]["sessions"] == 3


def test_a_model_that_nobody_has_used_is_idle_since_its_load() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, begins=[begin("m", LOAD)]), 0.0)
    table.tell(word("a", 2, ends=[end("m", LOAD, why="preload")]), 10.0)
    assert table.records(12.0)["m"]["idle_s"] == 2.0
    table.tell(word("a", 3, ends=[end("m", UNLOAD)]), 13.0)
    assert table.records(13.0)["m"]["why"] == ""


def test_how_long_a_change_goes_on_is_said_while_it_does() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, begins=[begin("m", LOAD)]), 1.0)
    assert table.records(4.0)["m"]["changing_s"] == 3.0
    table.tell(word("a", 2, ends=[end("m", LOAD)]), 5.0)
    assert table.records(6.0)["m"]["changing_s"] == 0.0


def test_use_ages_from_the_end_of_the_last_lease_also_of_a_process_that_died() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, ends=[end("m", LOAD, why="operator", load_s=2.5)]), 0.0)
    table.tell(word("a", 2, wants=["m"]), 10.0)
    record = table.records(20.0)["m"]
    assert (record["idle_s"], record["since_s"], record["why"], record["load_s"]) == (
        0.0,
        20.0,
        "operator",
        2.5,
    )
    assert table.records(10.0 + LEASE_S + 7.0)["m"]["idle_s"] == pytest.approx(7.0)
    assert table.records(100.0)["m"]["holders"] == 0


def test_the_end_of_a_change_that_another_has_taken_over_is_old_news() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, begins=[begin("m", LOAD)]), 0.0)
    assert table.tell(word("b", 1, begins=[begin("m", LOAD)]), LEASE_S + 1)["begins"] == [None]
    table.tell(word("a", 2, ends=[end("m", LOAD, ok=False, reason="cut off")]), LEASE_S + 2)
    record = table.records(LEASE_S + 2)["m"]
    assert (record["change"], record["changer"], record["reason"]) == ("load", "b", "")
    table.tell(word("b", 2, ends=[end("m", LOAD, why="session")]), LEASE_S + 3)
    table.tell(word("a", 3, ends=[end("m", UNLOAD, ago_s=8.0)]), LEASE_S + 10)
    record = table.records(LEASE_S + 10)["m"]
    assert (record["since_s"], record["why"]) == (7.0, "session"), (
        "unloaded before that load, and told after it"
    )
    table.tell(word("a", 4, ends=[end("m", UNLOAD, ago_s=6.0)]), LEASE_S + 11)
    assert table.records(LEASE_S + 11)["m"]["since_s"] is None


def test_a_change_counts_from_when_it_was_over_and_not_from_when_that_was_heard() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, ends=[end("m", LOAD, ago_s=4.0), end("n", LOAD, ok=False, ago_s=3.0)]), 10.0)
    assert table.records(10.0)["m"]["since_s"] == 4.0
    assert table.records(10.0)["n"]["failed_s"] == 3.0


def test_a_process_ends_its_own_change_whatever_it_said_of_it_meanwhile() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, changes={"m": LOAD}), 10.5)  # said as it ended, heard after
    table.tell(word("a", 2), 10.6)
    table.tell(word("a", 3, ends=[end("m", LOAD, ago_s=0.7)]), 10.7)
    assert table.records(10.7)["m"]["since_s"] == pytest.approx(0.7)


def test_failed_loads_are_counted_until_one_succeeds() -> None:
    table = Table(0.0, name="t")
    for seq in (1, 2):
        table.tell(word("a", seq, ends=[end("m", LOAD, ok=False, reason="no such file")]), float(seq))
    record = table.records(5.0)["m"]
    assert (record["failures"], record["failed_s"], record["reason"]) == (2, 3.0, "no such file")
    table.tell(word("a", 3, ends=[end("m", LOAD)]), 6.0)
    record = table.records(6.0)["m"]
    assert (record["failures"], record["failed_s"], record["reason"]) == (0, None, "")


def test_a_refusal_says_who_and_how_many() -> None:
    table = Table(0.0, name="t")
    table.tell(word("gateway-1", 1, holds={"m": 3}), 0.0)
    table.tell(word("gateway-2", 1, holds={"m": 1}), 0.0)
    refused = table.tell(word("cli", 1, begins=[begin("m", UNLOAD)]), 1.0)["begins"][0]
    assert refused == {
        "kind": "in_use",
        "text": "m is in use by 4 sessions (gateway-1, gateway-2)",
        "leases": 4,
        "wait_s": 0.0,
    }


def test_what_is_told_again_of_a_model_that_is_being_unloaded_is_kept_and_said() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, begins=[begin("m", UNLOAD)]), 0.0)
    answer = table.tell(word("b", 1, holds={"m": 1}, wants=["m"]), 1.0)
    assert answer["unloading"] == ["m"]
    assert answer["wants"]["m"]["text"] == "m is being unloaded by a"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"holder": "", "seq": 1, "lease_s": 1},
        {"holder": "a", "seq": "x", "lease_s": 1},
        {"holder": "a", "seq": 1, "lease_s": None},
        {"holder": "a", "seq": 1, "lease_s": 1, "holds": ["m"]},
        {"holder": "a", "seq": 1, "lease_s": 1, "changes": {"m": "explode"}},
        {"holder": "a", "seq": 1, "lease_s": 1, "wants": [7]},
        {"holder": "a", "seq": 1, "lease_s": 1, "begins": [{"model": "m"}]},
        {"holder": "a", "seq": 1, "lease_s": 1, "wants": ["m" * 1000]},
    ],
)
def test_a_word_that_cannot_be_read_has_no_effect(broken: dict[str, Any]) -> None:
    table = Table(0.0, name="t")
    with pytest.raises(ValueError, match=r".+"):
        table.tell(broken, 0.0)
    assert table.records(0.0) == {}


def test_a_table_forgets_old_names_and_keeps_what_matters() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, holds={"held": 1}, ends=[end("loaded", LOAD)]), 0.0)
    for seq in range(2, 102):
        names = [f"m{seq}-{n}" for n in range(50)]
        table.tell(word("b", seq, ends=[end(name, UNLOAD) for name in names]), 1.0 + seq / 100)
    assert len(table.models) <= 4_096
    assert {"held", "loaded", "m101-49"} <= table.models.keys()


def test_a_table_that_forgets_keeps_what_is_being_changed() -> None:
    table = Table(0.0, name="t")
    table.tell(word("a", 1, begins=[begin("changing", LOAD)]), 0.0)
    table.tell(word("b", 1, ends=[end(f"m{n}", UNLOAD) for n in range(4_200)]), 1.0)
    assert table.records(1.0)["changing"]["change"] == LOAD


def test_all_are_told_of_a_drain_until_it_ends_or_is_called_off() -> None:
    table = Table(0.0, name="t")
    assert table.tell(word("a", 1), 0.0)["draining_s"] == 0
    assert table.tell(word("drain", 1, drain_s=30), 1.0)["draining_s"] == 30
    answer = table.tell(word("a", 2, holds={"m": 1}, wants=["n"]), 11.0)
    assert answer["draining_s"] == 20
    assert answer["wants"] == {"n": None}  # what is under way may need another model, to its end
    assert table.tell(word("a", 3), 31.0)["draining_s"] == 0
    table.tell(word("drain", 2, drain_s=30), 32.0)
    assert table.tell(word("drain", 3, drain_s=0), 33.0)["draining_s"] == 0
    assert table.tell(word("drain", 4, drain_s=1e9), 33.0)["draining_s"] == 86_400
    with pytest.raises(ValueError, match="no word of a process"):
        table.tell(word("drain", 5, drain_s=[]), 34.0)
