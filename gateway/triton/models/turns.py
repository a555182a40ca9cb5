"""Whose turn it is on an engine that many share: the one who runs dry first goes next.

Every turn carries the moment at which its listener has nothing left to hear (a voice), or at which its
last sample was due (a recogniser). That moment moves only when the turn itself gets work done, so a turn
that waits becomes the earliest sooner or later: nobody starves. Who has not been heard at all yet asks
with a moment in the past (`NEWCOMER_S`) and so goes before all who have something to play.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

NEWCOMER_S = 1.0
"""How much earlier than its arrival a first chunk is due; who was left dry longer than this goes even before it."""
SLACK_S = 0.16
"""Nobody makes room for somebody who is due only this little earlier: a chunk's worth, against needless switches."""
MUCH_S = 0.5
"""Due this much earlier than the one that works: worth a spare place."""


class Turn:
    """One that takes turns. `wake` is called, from any thread, when it was told to wait and need not any more."""

    __slots__ = ("due", "entry", "off", "wake", "working")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.due = 0.0
        """s, on the clock of all turns of one queue."""
        self.working = False
        self.off = False
        """It was called off: it never waits again."""
        self.entry = -1
        """Its number in the queue while it waits."""


class Turns:
    """At most `places` work at a time. Safe in any thread; nothing here blocks.

    spare: so many more may work where all places are taken by turns that are due much later and that
        cannot make room at once; they make room when they next can.
    """

    def __init__(self, places: int, spare: int = 0) -> None:
        self._places, self._spare = places, spare
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, Turn]] = []
        self._working: set[Turn] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def working(self) -> int:
        return len(self._working)

    def ask(self, turn: Turn, due: float) -> bool:
        """Whether it may work now; otherwise `wake` is called when it may. Called off: True, and no place is held."""
        with self._lock:
            if turn.off:
                return True
            turn.due = due
            if len(self._working) < self._places or self._deserves_spare(due):
                self._start(turn)
                return True
            self._push(turn)
            return False

    def make_room(self, turn: Turn, due: float) -> bool:
        """At a point where its work can rest: whether it may go on; otherwise it has lost its place, and waits."""
        with self._lock:
            if turn.off or not turn.working:
                return True
            turn.due = due
            crowded = len(self._working) > self._places and turn is max(self._working, key=_due)
            if not crowded and not (self._waiting and self._waiting[0][0] < due - SLACK_S):
                return True
            self._working.discard(turn)
            turn.working = False
            self._push(turn)
            self._fill()
            return False

    def leave(self, turn: Turn) -> None:
        """Its work is done. Harmless without a place."""
        with self._lock:
            if turn.working:
                turn.working = False
                self._working.discard(turn)
                self._fill()

    def call_off(self, turn: Turn) -> None:
        """It is not to wait any more, now or later: it is woken without a place. One that works keeps its place."""
        with self._lock:
            turn.off = True
            if turn.entry < 0:
                return
            self._waiting = [entry for entry in self._waiting if entry[2] is not turn]
            heapq.heapify(self._waiting)
            turn.entry = -1
        turn.wake()

    def _deserves_spare(self, due: float) -> bool:
        if len(self._working) >= self._places + self._spare:
            return False
        return not self._waiting and due < min(turn.due for turn in self._working) - MUCH_S

    def _push(self, turn: Turn) -> None:
        turn.entry = next(self._numbers)
        heapq.heappush(self._waiting, (turn.due, turn.entry, turn))

    def _fill(self) -> None:
        while self._waiting and len(self._working) < self._places:
            turn = heapq.heappop(self._waiting)[2]
            turn.entry = -1
            self._start(turn)
            turn.wake()

    def _start(self, turn: Turn) -> None:
        turn.working = True
        self._working.add(turn)


def _due(turn: Turn) -> float:
    return turn.due
