"""A place at what a machine can do few of at a time: those whose listeners have the least to hear go first."""

from __future__ import annotations

import threading
import time

import numpy as np

from gateway.triton.models.tts.common import Heard
from gateway.triton.models.turns import NEWCOMER_S, Turn, Turns
from gateway.triton.models.voices import Listener

PARKED_S = 120.0
"""Work that has waited this long for its place is given up: something is broken."""
LOOK_S = 0.1
"""How often it is asked, while somebody waits, whether anybody still listens."""
NO_SOUND = np.zeros(0, np.int16)


class Gone(Exception):
    """Nobody listens any more."""


class Audience:
    """Whom an utterance is made for: `heard`, which tells more where it is a `Listener`."""

    def __init__(self, heard: Heard) -> None:
        self.made_s = 0.0
        """Speech made so far; said by whoever makes it."""
        self._heard = heard
        self._listener = heard if isinstance(heard, Listener) else None
        self._began = time.monotonic()

    @property
    def due(self) -> float:
        """s, monotonic: when all that was made has been heard; in the past before the first sound."""
        if self._listener is not None:
            return self._listener.due
        return self._began + (self.made_s or -NEWCOMER_S)

    @property
    def wanted(self) -> bool:
        return self._listener.wanted if self._listener is not None else self._heard(NO_SOUND)


class Place:
    """One utterance's place: `with` it, a part is made.

    Raises on entry: Gone, and the place is left to others; TimeoutError.
    """

    def __init__(self, turns: Turns, audience: Audience, what: str) -> None:
        """what: is waited for, in the sentence of who waited in vain."""
        self._turns, self._audience, self._what = turns, audience, what
        self._woken = threading.Event()
        self._turn = Turn(self._woken.set)

    def __enter__(self) -> None:
        if not self._turns.ask(self._turn, self._audience.due):
            deadline = time.monotonic() + PARKED_S
            while True:
                woken = self._woken.wait(LOOK_S)
                late = not woken and time.monotonic() >= deadline
                if late or not self._audience.wanted:
                    self._turns.call_off(self._turn)
                    self._turns.leave(self._turn)
                    if late:
                        raise TimeoutError(f"{self._what} was not free within two minutes; try again")
                    raise Gone
                if woken:
                    break
            self._woken.clear()

    def __exit__(self, *error: object) -> None:
        self._turns.leave(self._turn)
