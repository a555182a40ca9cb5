"""The states of a session and the ways between them (DESIGN §4). An illegal step raises."""

from __future__ import annotations

from gateway.session.events import State

_NEXT: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.LISTENING}),
    State.LISTENING: frozenset({State.SPEAKING, State.WAITING_FOR_INPUT}),
    State.WAITING_FOR_INPUT: frozenset({State.LISTENING, State.SPEAKING}),
    State.SPEAKING: frozenset({State.BARGED_IN, State.WAITING_FOR_INPUT}),
    State.BARGED_IN: frozenset({State.LISTENING, State.SPEAKING, State.WAITING_FOR_INPUT}),
    State.TERMINATED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A step that the table does not know: a bug of ours, never the client's."""


def legal(old: State, new: State) -> bool:
    """TERMINATED is reached from everywhere and left for nowhere."""
    return new in _NEXT[old] or (new is State.TERMINATED and old is not State.TERMINATED)


def step(old: State, new: State) -> State:
    """Returns `new`. Raises IllegalTransition."""
    if not legal(old, new):
        raise IllegalTransition(f"{old} → {new}")
    return new
