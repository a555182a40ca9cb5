"""The chaos soak's programme, what it takes each caller to have seen, and its verdict."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from load.run.soaking import markdown
from load.soak.chaos import page
from load.soak.chaos.kinds import KINDS, Blow, programme
from load.soak.chaos.people import Event, People
from load.soak.chaos.record import Course
from load.soak.chaos.seen import NOTHING, Frames, look, read_frames, waits
from load.soak.chaos.verdict import judge

CALLERS = 4
TURN_S = 4.0


def test_the_long_programme_is_100_faults_of_every_kind_several_times() -> None:
    whole = programme(100, random.Random(1))
    times = Counter(kind.name for kind in whole)
    assert len(whole) == 100
    assert times == {kind.name: kind.times for kind in KINDS}
    assert min(times.values()) >= 3
    assert whole != programme(100, random.Random(2))
    parts = Counter(kind.part for kind in KINDS for _ in range(kind.times))
    assert set(parts) == {"ASR", "LLM", "TTS", "Triton", "gateway", "client"}


def test_a_short_programme_has_something_of_every_part() -> None:
    short = programme(10, random.Random(1))
    assert len({kind.name for kind in short}) == 10
    assert {kind.part for kind in short} >= {"ASR", "LLM", "TTS", "gateway", "client"}


def happy(caller: int, begin: float, end: float) -> list[Event]:
    """A turn of 3 s every 4 s, whose reply sounds for the last second."""
    found = []
    for t in np.arange(begin + 0.1 * caller + TURN_S, end, TURN_S):
        found += [
            Event(float(t), caller, "voice_to_voice", 500, True, ""),
            Event(float(t), caller, "turn", 3_000, True, ""),
        ]
    return found


def frames_of(events: list[Event], late_ms: float = 1.0) -> Frames:
    rows = []
    for reply, event in enumerate(e for e in events if e.name == "turn" and e.ok):
        rows += [(event.t - 1 + k / 50, event.caller, reply, late_ms) for k in range(50)]
    table = np.array(sorted(rows))
    return Frames(table[:, 0], table[:, 1].astype(np.int64), table[:, 2].astype(np.int64), table[:, 3])


class World:
    """Calm from 0 to 40 s, a fault at 100 s and one at 120 s, over at 140 s; a test spoils it."""

    def __init__(self) -> None:
        self.events = [e for caller in range(CALLERS) for e in happy(caller, 0, 40) + happy(caller, 90, 140)]
        first = Blow("LLM: every connection is reset", "LLM", 100.0, 100.1)
        second = Blow("gateway: a worker is killed", "gateway", 120.0, 120.1, lost=1)
        self.course = Course(
            CALLERS, 0.0, 40.0, [first, second], 140.0, tasks_before=10, tasks_after=10, restarts=1,
            left_open={"asr": 0, "llm": 0}, send_late_ms=[0.5],
        )  # fmt: skip
        self.events.append(Event(120.2, 3, "session", 0, False, "disconnected:UNAVAILABLE"))
        self.frames = frames_of(self.events)

    def verdict(self) -> Any:
        people = People({}, [""] * CALLERS, 1)
        people.events = self.events
        return judge(self.course, people, self.frames)


def test_all_is_well_when_everybody_is_back() -> None:
    outcome = World().verdict()
    assert outcome.ok, outcome.findings
    assert "all is well" in outcome.findings[0]
    rows = {row[0]: row for row in outcome.rows}
    assert rows["gateway"][3] == "the call ended: UNAVAILABLE 1; nothing 3 of 4"
    assert rows["LLM"][3] == "nothing 4 of 4"
    # caller 3 speaks again in the turn that ends at 122.3 s, and hears from 121.3 s on
    assert rows["gateway"][4] == "1.3 / 1.3"
    assert outcome.data["blows"][1]["lost"] == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: w.course.missing.update({0: {2}}), "1 callers heard no reply any more after LLM"),
        (lambda w: w.events.append(Event(101, 0, "stale_frames", 2, False, "")), "2 stale frames"),
        (lambda w: setattr(w.course, "tasks_after", 11), "tasks at rest grew from 10 to 11"),
        (lambda w: w.course.left_open.update(llm=1), "requests were left open"),
        (lambda w: setattr(w.course, "restarts", 2), "1 workers were killed, but 2 started again"),
        (lambda w: setattr(w.course.blows[1], "lost", 2), "had 2 sessions, but 1 were lost"),
        (
            lambda w: w.events.append(Event(100.5, 1, "session", 0, False, "disconnected:UNAVAILABLE")),
            "1 callers were cut off by LLM",
        ),
        (lambda w: np.multiply(w.frames.late_ms, np.where(w.frames.t > 100, 20, 1), out=w.frames.late_ms), "jitter"),
    ],
    ids=["never", "stale", "tasks", "open", "restarts", "lost", "strangers", "jitter"],
)  # fmt: skip
def test_what_is_not_well_is_said(spoil: Any, says: str) -> None:
    world = World()
    spoil(world)
    outcome = world.verdict()
    assert not outcome.ok
    assert says in outcome.findings[0]


@pytest.mark.parametrize(
    ("events", "saw"),
    [
        ([], NOTHING),
        ([("voice_to_voice", 900, True, "")], NOTHING),
        ([("voice_to_voice", 1_100, True, "")], "a late reply"),
        ([("warning", 1, True, "asr_retry")], "`warning asr_retry`, then the reply"),
        ([("error", 1, True, "llm_failed"), ("turn", 1, False, "error:llm_failed")], "`error llm_failed`, no reply"),
        ([("turn", 1, False, "reply_failed")], "the reply broke off"),
        ([("turn", 1, False, "timeout")], "timeout"),
        ([("session", 1, False, "closed:lost"), ("turn", 1, False, "timeout")], "the call ended: lost"),
    ],
)  # fmt: skip
def test_the_worst_that_a_caller_met_is_what_they_saw(events: list[Any], saw: str) -> None:
    met = [Event(101, 0, *event) for event in events]
    later = [Event(150, 0, "turn", 3_000, True, "")]
    seen = look(Blow("x", "LLM", 100, 100), 110, met + later, frames_of(later), 1, late_ms=1_000, gap_ms=100)
    assert seen.saw == {0: saw}
    # the next reply begins at 149 s, later than anybody would wait for it
    assert seen.never == ({0} if saw != NOTHING else set())


def test_a_pause_in_a_reply_is_seen_where_the_voice_is_concerned() -> None:
    events = happy(0, 99, 120)
    frames = frames_of(events, late_ms=150)
    for blow, saw in (
        (Blow("x", "TTS", 102, 102), "a gap in a reply"),
        (Blow("x", "ASR", 102, 102), NOTHING),
        (Blow("x", "client", 102, 102, hit=[0]), "a gap in a reply"),
        (Blow("x", "client", 102, 102, hit=[1]), NOTHING),
    ):
        seen = look(blow, 110, events, frames, 1, 1_000, 100)
        assert seen.saw == {0: saw}
        assert (seen.beside_ms.size > 0) == (saw == NOTHING)
    assert look(Blow("x", "TTS", 102, 102), 110, events, frames, 1, 1_000, 200).saw == {0: NOTHING}


def test_the_normal_wait_is_that_for_the_next_reply() -> None:
    events = happy(0, 0, 40)
    found = waits(events, frames_of(events), 1, 0, 40)
    assert 0 <= min(found) < max(found) <= TURN_S


def test_frames_are_those_of_known_calls_in_order(tmp_path: Path) -> None:
    path = tmp_path / "frames.csv"
    path.write_text("t,caller,reply,seq,late_ms\n5.0,7,1,0,2.5\n4.0,9,1,0,1.5\n4.5,8,2,1,0.5\n")
    frames = read_frames(path, {7: 0, 9: 1})
    assert frames.t.tolist() == [4.0, 5.0]
    assert frames.caller.tolist() == [1, 0]
    assert frames.late_ms.tolist() == [1.5, 2.5]
    assert len(read_frames(tmp_path / "none.csv", {}).t) == 0


def test_the_page_takes_the_results_between_its_marks(tmp_path: Path) -> None:
    outcome = World().verdict()
    machine = {"cpu": "c", "cores": 2, "system": "s", "date": "d", "command": "scripts/soak chaos"}
    results = tmp_path / "chaos.md"
    results.write_text(markdown(outcome, machine))
    target = tmp_path / "doc.md"
    target.write_text(f"# Ours\n\nbefore\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n")
    page.put(results, target)
    page.put(results, target)
    text = target.read_text()
    assert text.startswith("# Ours\n\nbefore\n")
    assert text.endswith(f"{page.END}\n\nafter\n")
    assert "old" not in text
    assert "# Soak" not in text
    assert text.count("| gateway | a worker is killed |") == 1
    with pytest.raises(ValueError, match="marks"):
        page.put(results, results)
