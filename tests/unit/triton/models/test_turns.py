"""Who goes next on an engine, without engines: turns, their moments, and what nobody may suffer."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.triton.models.turns import NEWCOMER_S, SLACK_S, Turn, Turns

Log = list[str]


def turn(log: Log, name: str) -> Turn:
    return Turn(lambda: log.append(name))


def test_places_are_free_at_first_and_the_next_one_waits() -> None:
    log: Log = []
    turns = Turns(2)
    a, b, c = (turn(log, name) for name in "abc")
    assert turns.ask(a, 1.0)
    assert turns.ask(b, 2.0)
    assert not turns.ask(c, 3.0)
    turns.leave(a)
    assert log == ["c"]
    assert (turns.working, turns.waiting) == (2, 0)


def test_who_runs_dry_first_goes_next() -> None:
    log: Log = []
    turns = Turns(1)
    first = turn(log, "first")
    assert turns.ask(first, 0.0)
    held = {name: turn(log, name) for name in ("late", "soon", "newcomer")}
    assert not turns.ask(held["late"], 9.0)
    assert not turns.ask(held["soon"], 3.0)
    assert not turns.ask(held["newcomer"], 2.0 - NEWCOMER_S)
    turns.leave(first)
    for name in ("newcomer", "soon"):
        assert log[-1] == name
        turns.leave(held[name])
    assert log == ["newcomer", "soon", "late"]


def test_a_long_utterance_makes_room_at_its_next_rest() -> None:
    log: Log = []
    turns = Turns(1)
    long, new = turn(log, "long"), turn(log, "new")
    assert turns.ask(long, 0.0)
    assert turns.make_room(long, 5.0), "nobody waits"
    assert not turns.ask(new, 1.0)
    assert not turns.make_room(long, 5.1)
    assert log == ["new"]
    assert turns.make_room(new, 1.1), "it goes on until the other one is due earlier"
    turns.leave(new)
    assert log == ["new", "long"]
    assert long.working


def test_a_little_is_no_reason_to_switch() -> None:
    log: Log = []
    turns = Turns(1)
    a, b = turn(log, "a"), turn(log, "b")
    assert turns.ask(a, 1.0)
    assert not turns.ask(b, 1.0)
    assert turns.make_room(a, 1.0 + SLACK_S)
    assert not turns.make_room(a, 1.01 + SLACK_S)
    assert log == ["b"]


def test_a_spare_place_is_for_who_is_due_much_earlier() -> None:
    log: Log = []
    turns = Turns(1, spare=1)
    early, live, other = (turn(log, name) for name in ("early", "live", "other"))
    assert turns.ask(early, 10.0)
    assert not turns.ask(other, 9.9)
    turns.call_off(other)
    assert turns.ask(live, 1.0), "all others work on what is due much later"
    assert not turns.ask(turn(log, "third"), 0.0), "spare places are counted too"
    assert not turns.make_room(early, 10.1), "the one that can wait longest gives the place back"
    turns.leave(live)
    assert log[-1] == "third"


def test_called_off_while_it_waits_it_is_woken_without_a_place() -> None:
    log: Log = []
    turns = Turns(1)
    a, b, c = (turn(log, name) for name in "abc")
    turns.ask(a, 0.0)
    turns.ask(b, 1.0)
    turns.ask(c, 2.0)
    turns.call_off(b)
    assert log == ["b"]
    assert not b.working
    turns.leave(b)
    assert (turns.working, turns.waiting) == (1, 1)
    turns.leave(a)
    assert log == ["b", "c"]
    assert turns.ask(b, 0.0), "it never waits again"
    assert turns.working == 1


def test_called_off_at_work_it_keeps_its_place_until_it_leaves() -> None:
    log: Log = []
    turns = Turns(1)
    a, b = turn(log, "a"), turn(log, "b")
    turns.ask(a, 0.0)
    turns.ask(b, 0.0)
    turns.call_off(a)
    assert log == []
    turns.leave(a)
    assert log == ["b"]


def test_newcomers_without_end_starve_nobody() -> None:
    """A stream with a second to play, and for ever more newcomers than the engine has time for."""
    log: Log = []
    turns = Turns(1)
    now, busy = 0.0, turn(log, "busy")
    turns.ask(busy, -1.0)
    old = turn(log, "old")
    assert not turns.ask(old, now + 1.0)
    for number in itertools.count():
        assert number < 1_000, "it starved"
        now += 0.01
        for extra in "xy":
            turns.ask(turn(log, f"{number}{extra}"), now - NEWCOMER_S)
        for working in list(turns._working):
            turns.leave(working)
        if old.working:
            break
    assert now <= 2 * (1.0 + NEWCOMER_S) + 0.1, (
        "twice as many come as are served, and those before it go first"
    )


@given(
    st.integers(1, 3),
    st.integers(0, 2),
    st.lists(
        st.tuples(st.sampled_from(["ask", "room", "leave", "off"]), st.integers(0, 7), st.floats(-2, 20)),
        max_size=80,
    ),
)
def test_no_place_is_lost_and_none_is_left_empty(
    places: int, spare: int, steps: list[tuple[str, int, float]]
) -> None:
    turns = Turns(places, spare)
    woken: set[int] = set()
    waits: set[int] = set()
    held = [Turn(lambda number=number: woken.add(number)) for number in range(8)]  # type: ignore[misc]
    for what, number, due in steps:
        one = held[number]
        woken.clear()
        if what == "ask" and not one.working and number not in waits:
            if not turns.ask(one, due):
                waits.add(number)
        elif what == "room" and one.working:
            if not turns.make_room(one, due):
                waits.add(number)
        elif what == "leave" and one.working:
            turns.leave(one)
        elif what == "off":
            turns.call_off(one)
        assert woken <= waits, "only who waits is woken"
        waits -= woken
        assert turns.waiting == len(waits)
        assert turns.working == sum(turn.working for turn in held) <= places + spare
        assert not waits or turns.working >= places, "a place is empty while somebody waits"
        assert not any(held[number].working or held[number].off for number in waits)
