"""A session keeps the model it began with, until it asks to switch or the model is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.triton.errors import TritonError
from gateway.triton.routing.choose import (
    Candidate,
    Choice,
    NothingFits,
    Want,
    decide,
    eased,
    rank,
    refusal,
    served_by,
)
from gateway.triton.routing.policy import Policy


class SwitchRefused(TritonError):
    """The request would take another model than the session has, and does not ask for that."""


class Pinned:
    """One session's model of one family. Plain state: nothing is awaited, a refusal changes nothing."""

    def __init__(self, *, use_stand_in: bool = True) -> None:
        """use_stand_in: see `choose.decide`."""
        self._use_stand_in = use_stand_in
        self._held: Candidate | None = None

    @property
    def model(self) -> str:
        """By name; "" before the first choice."""
        return self._held.info.name if self._held is not None else ""

    @property
    def server(self) -> str:
        return self._held.server if self._held is not None else ""

    def choose(
        self, candidates: Sequence[Candidate], want: Want, policy: Policy, *, switch: bool = False
    ) -> Choice:
        """What serves the next request: the model the session has, on its server, as long as that is there.

        candidates: of the servers that take requests. A model that is on none of them is gone: the session moves to
            the next in rank, which `Choice.moved` and `Choice.note` report.
        switch: the request may take another model.
        Raises: SwitchRefused, NothingFits.
        """
        choice = self.look(candidates, want, policy, switch=switch)
        self.settle(choice.wanted)
        return choice

    def settle(self, candidate: Candidate) -> None:
        """The session has this one from now on."""
        self._held = candidate

    def look(
        self, candidates: Sequence[Candidate], want: Want, policy: Policy, *, switch: bool = False
    ) -> Choice:
        """As `choose`, and the session keeps what it has."""
        held = self._held
        if held is None or switch:
            return decide(candidates, want, policy, use_stand_in=self._use_stand_in)
        fitting = rank(candidates, want, policy)
        same = [each for each in fitting if each.info.name == held.info.name]
        if same:
            return self._stay(held, same, candidates, want, policy)
        if any(each.info.name == held.info.name for each in candidates):
            raise SwitchRefused(_refused(held, candidates, want, policy, fitting))
        return self._move(held, fitting, candidates, want, policy)

    def _stay(
        self,
        held: Candidate,
        same: list[Candidate],
        candidates: Sequence[Candidate],
        want: Want,
        policy: Policy,
    ) -> Choice:
        here = next((each for each in same if each.server == held.server), None)
        if here is not None and (here.resident or not any(each.resident for each in same)):
            return served_by(here, candidates, want, policy, use_stand_in=self._use_stand_in)
        best = next((each for each in same if each.resident), same[0])
        choice = served_by(best, candidates, want, policy, use_stand_in=self._use_stand_in)
        lost = "has lost it" if here is not None else "is gone"
        return replace(
            choice, moved=True, note=f"{held.server} {lost}: {held.info.name} goes on at {best.server}"
        )

    def _move(
        self,
        held: Candidate,
        fitting: list[Candidate],
        candidates: Sequence[Candidate],
        want: Want,
        policy: Policy,
    ) -> Choice:
        if not fitting:  # what only the lost model could do is not asked of the next
            want = eased(want)
            fitting = rank(candidates, want, policy)
        if not fitting:
            raise NothingFits(f"{held.info.name} is gone, and {refusal(candidates, want, policy)}")
        choice = served_by(fitting[0], candidates, want, policy, use_stand_in=self._use_stand_in)
        note = f"{held.info.name} is gone: {choice.serves.info.name} takes its place"
        return replace(choice, moved=True, note=note)


def _refused(
    held: Candidate, candidates: Sequence[Candidate], want: Want, policy: Policy, fitting: list[Candidate]
) -> str:
    has = held.info.name
    if fitting:
        return f"this session has {has}, and that would take {fitting[0].info.name}: ask for the switch of models"
    return f"this session has {has}, and {refusal(candidates, want, policy)}"
