"""First chunks under load in virtual time: the queue alone, on an engine that only costs time.

Texts of 1 to 3 s are sent half a second ahead of real time; each listener asks for the next one when the last
one was sent. A step makes 20 ms of audio and is never interrupted; a first chunk takes four.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

from bench.stats import percentile
from gateway.triton.models.turns import NEWCOMER_S, Turn, Turns

STEP_S, FIRST_STEPS = 0.02, 4
LEAD_S = 0.5


class Listener:
    """One text after the other."""

    def __init__(self, number: int, begins_s: float) -> None:
        self.dice = random.Random(number)
        self.first_s: list[float] = []
        self.dry_s = 0.0
        """How long it had nothing to hear in the middle of a text, in all."""
        self.begin(begins_s)

    def begin(self, at_s: float) -> None:
        self.arrived_s, self.first_at_s = at_s, 0.0
        self.steps, self.made = round(self.dice.uniform(1, 3) / STEP_S), 0
        self.turn = Turn(lambda: None)

    def due_s(self) -> float:
        if not self.first_at_s:
            return self.arrived_s - NEWCOMER_S
        return self.first_at_s + self.made * STEP_S

    def step(self, now_s: float) -> None:
        if self.first_at_s:
            self.dry_s += max(0.0, now_s - self.due_s())
        self.made += 1
        if self.made == FIRST_STEPS:
            self.first_at_s = now_s
            self.first_s.append(now_s - self.arrived_s)


def run(begins_s: Iterable[float], cost_s: float, until_s: float) -> tuple[list[Listener], float]:
    """Listeners who begin at these times on one engine, and its busy share."""
    listeners = [Listener(number, at) for number, at in enumerate(begins_s)]
    arrivals = [(one.arrived_s, number) for number, one in enumerate(listeners)]
    heapq.heapify(arrivals)
    turns, now, busy = Turns(1), 0.0, 0.0
    while now < until_s:
        working = next((one for one in listeners if one.turn.working), None)
        if working is None:
            now = arrivals[0][0]
        else:
            now, busy = now + cost_s, busy + cost_s
        while arrivals and arrivals[0][0] <= now:
            one = listeners[heapq.heappop(arrivals)[1]]
            turns.ask(one.turn, one.due_s())
        if working is None:
            continue
        working.step(now)
        if working.made < working.steps:
            turns.make_room(working.turn, working.due_s())
            continue
        turns.leave(working.turn)
        working.begin(max(now, working.first_at_s + working.steps * STEP_S - LEAD_S))
        heapq.heappush(arrivals, (working.arrived_s, listeners.index(working)))
    return listeners, busy / now


def p95(listeners: list[Listener]) -> float:
    return percentile([value for one in listeners for value in one.first_s], 0.95)


def test_first_chunks_at_64_streams_take_less_than_twice_as_long_as_alone() -> None:
    cost_s = 0.00014
    alone, _ = run([0.0], cost_s, 60.0)
    many, busy = run([number / 64 * 2 for number in range(64)], cost_s, 30.0)
    assert 0.5 <= busy <= 0.65, "else this says nothing"
    assert abs(p95(alone) - FIRST_STEPS * cost_s) < 1e-9
    assert p95(many) <= 2 * p95(alone)
    assert sum(one.dry_s for one in many) == 0, "and nobody who listens runs dry"


def test_a_crowd_is_served_one_first_chunk_after_the_other() -> None:
    cost_s = 0.001
    crowd, _ = run([0.0] * 64, cost_s, 0.5)
    first_s = sorted(one.first_s[0] for one in crowd)
    ideal_s = [(rank + 1) * FIRST_STEPS * cost_s for rank in range(64)]
    assert all(abs(took - best) < 1e-6 for took, best in zip(first_s, ideal_s, strict=True))


def test_beyond_what_the_engine_can_do_all_fall_behind_alike() -> None:
    """Twice as much as it can make: no first chunk waits for the others' backlog, and nobody is left out."""
    crowded, busy = run([number / 64 * 2 for number in range(64)], 0.0006, 40.0)
    assert busy > 0.99
    texts = [len(one.first_s) for one in crowded]
    assert min(texts) >= 0.6 * max(texts)
