"""Places at what a machine can do few of: in whose order they are had, and how they are left."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from numpy.typing import NDArray

from gateway.triton.models.tts import places
from gateway.triton.models.tts.places import Audience, Gone, Place
from gateway.triton.models.turns import Turn, Turns


class Listening:
    """`Listener`"""

    def __init__(self, due: float = 0.0) -> None:
        self.due, self.wanted = due, True

    def __call__(self, samples: NDArray[Any], /) -> bool:
        raise AssertionError("it says itself how it stands")


class Counted(Turns):
    def __init__(self, places: int) -> None:
        super().__init__(places)
        self.asked = threading.Semaphore(0)

    def ask(self, turn: Turn, due: float) -> bool:
        granted = super().ask(turn, due)
        self.asked.release()
        return granted


def test_a_listener_says_how_it_stands() -> None:
    listener = Listening(7.0)
    audience = Audience(listener)
    assert (audience.due, audience.wanted) == (7.0, True)
    listener.due, listener.wanted = 8.0, False
    assert (audience.due, audience.wanted) == (8.0, False)


def test_of_others_it_is_counted() -> None:
    audience = Audience(lambda samples: len(samples) > 0)
    assert audience.due < time.monotonic()
    audience.made_s = 5.0
    assert 4 < audience.due - time.monotonic() <= 5
    assert not audience.wanted, "asked with nothing to hear"


def test_who_runs_dry_first_has_the_next_place() -> None:
    turns = Counted(1)
    order: list[float] = []

    def work(due: float) -> None:
        with Place(turns, Audience(Listening(due)), "the vocoder"):
            order.append(due)

    with ThreadPoolExecutor(3) as pool:
        with Place(turns, Audience(Listening()), "the vocoder"):
            going = [pool.submit(work, due) for due in (3.0, 1.0, 2.0)]
            for _ in range(1 + len(going)):
                assert turns.asked.acquire(timeout=10)
        for one in going:
            one.result(10)
    assert order == [1.0, 2.0, 3.0]


def test_who_is_not_wanted_any_more_leaves_the_place_to_others() -> None:
    turns, listener = Turns(1), Listening()
    with Place(turns, Audience(Listening()), "the vocoder"), ThreadPoolExecutor(1) as pool:
        waits = pool.submit(Place(turns, Audience(listener), "the vocoder").__enter__)
        listener.wanted = False
        with pytest.raises(Gone):
            waits.result(10)
        assert turns.waiting == 0
    assert turns.working == 0


def test_a_place_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(1)
    monkeypatch.setattr(places, "PARKED_S", 0.0)
    with (
        Place(turns, Audience(Listening()), "the vocoder"),
        pytest.raises(TimeoutError, match=r"^the vocoder was not free"),
        Place(turns, Audience(Listening()), "the vocoder"),
    ):
        pass
    assert turns.working == turns.waiting == 0
