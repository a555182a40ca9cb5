"""When a gateway carries too many callers: judged on raw samples of a window, failures counted."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """What of a sample the objective asks for."""

    t_s: float
    name: str
    ms: float
    ok: bool


WATCHED = ("voice_to_voice", "turn")
_MOST_SAMPLES = 50_000


def p95(values: list[float]) -> float:
    """The smallest value that 95 % do not exceed; infinity among them counts, nan without any."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)] if ordered else math.nan


@dataclass(slots=True)
class Window:
    """Figures of a stretch of time."""

    turns: int
    failed: int
    p95_ms: float
    """Of voice to voice; a turn without an answer is infinitely slow."""

    @property
    def failed_share(self) -> float:
        return self.failed / self.turns if self.turns else 0.0


class Objective:
    """p95 voice to voice within 1.5 times that of one caller, and at most 1 % of turns failed."""

    SLOWER, FAILED = 1.5, 0.01

    def __init__(self) -> None:
        self.baseline_ms = math.nan
        self._seen: deque[Seen] = deque(maxlen=_MOST_SAMPLES)

    def take(self, sample: Seen) -> None:
        if sample.name in WATCHED:
            self._seen.append(sample)

    def window(self, begin: float, end: float) -> Window:
        """Between two UNIX times."""
        within = [s for s in self._seen if begin <= s.t_s < end]
        turns = [s for s in within if s.name == "turn"]
        waits = [s.ms if s.ok else math.inf for s in within if s.name == "voice_to_voice"]
        return Window(len(turns), sum(not s.ok for s in turns), p95(waits))

    def latest(self) -> float:
        return self._seen[-1].t_s if self._seen else 0.0

    def broken(self, window: Window) -> str:
        """Why; empty while it holds."""
        if window.failed_share > self.FAILED:
            return f"{window.failed} of {window.turns} turns failed"
        if window.p95_ms > self.SLOWER * self.baseline_ms:
            return (
                f"p95 voice to voice is {window.p95_ms:.0f} ms, more than {self.SLOWER:g} × the "
                f"{self.baseline_ms:.0f} ms of one caller"
            )
        return ""


@dataclass(slots=True)
class Ramp:
    """One caller for the reference, then steps up; a step that breaks the objective twice in a row ends it.

    Time is counted from the start of the test; samples carry UNIX times, and the newest of them says
    how the two relate, so that neither clock is asked here.
    """

    objective: Objective
    step: int = 0
    """Callers added at a time; 0: a twentieth of the most."""
    step_s: float = 20.0
    settle_s: float = 6.0
    """After a step, what is measured is not used: calls begin, and turns are those of before."""
    reference_s: float = 30.0
    reference_turns: int = 5
    longest_reference_s: float = 90.0
    enough_turns: int = 20
    """A window with fewer, and fewer than three a caller, is judged later, or after four steps' time."""
    held: int = 0
    """The last level at which the objective held."""
    broke_at: int = 0
    why: str = ""
    levels: list[dict[str, Any]] = field(default_factory=list)
    _level: int = 1
    _since: float = 0.0
    _doubted: bool = False

    def users(self, now: float, most: int) -> int | None:
        """The level wanted at `now` s; None when the ramp is over."""
        if self.why:
            return None
        self.step = self.step or max(1, round(most / 20))
        if math.isnan(self.objective.baseline_ms):
            self._refer(now)
            return 1 if not self.why else None
        if now - self._since >= self.step_s:
            self._judge(now, most)
        return None if self.why else self._level

    def _refer(self, now: float) -> None:
        window = self._window(now, now)
        if now < self.reference_s or (window.turns < self.reference_turns and now < self.longest_reference_s):
            return
        if not math.isfinite(window.p95_ms):
            self.why = f"one caller alone got no answer within {now:.0f} s"
            return
        self.objective.baseline_ms = window.p95_ms
        self._note(window)
        self.held, self._since, self._level = 1, now, 1 + self.step

    def _judge(self, now: float, most: int) -> None:
        window = self._window(now - self._since - self.settle_s, now)
        if window.turns < min(self.enough_turns, 3 * self._level) and now - self._since < 4 * self.step_s:
            return
        broken = self.objective.broken(window)
        if not window.turns:
            broken = f"no turn ended within {now - self._since:.0f} s"
        if broken and not self._doubted:
            self._doubted, self._since = True, now - self.settle_s  # once more, at the same level
            return
        self._note(window)
        if broken:
            self.broke_at, self.why = self._level, broken
            return
        self.held, self._doubted, self._since = self._level, False, now
        if self._level >= most:
            self.why = f"the objective still holds at {most}, the most that was asked for"
        self._level = min(most, self._level + self.step)

    def _window(self, length: float, now: float) -> Window:
        end = self.objective.latest()
        return self.objective.window(end - length, end + 1e-6)

    def _note(self, window: Window) -> None:
        self.levels.append(
            {
                "callers": self._level,
                "turns": window.turns,
                "failed": window.failed,
                "p95_ms": round(window.p95_ms, 1) if math.isfinite(window.p95_ms) else None,
            }
        )

    def verdict(self) -> dict[str, Any]:
        """For people and for programs."""
        if self.broke_at:
            text = f"the objective held at {self.held} callers and broke at {self.broke_at}: {self.why}"
        else:
            text = f"the objective held at {self.held} callers: {self.why or 'the time was over'}"
        return {
            "held": self.held,
            "broke_at": self.broke_at or None,
            "why": self.why,
            "baseline_ms": None if math.isnan(self.objective.baseline_ms) else self.objective.baseline_ms,
            "levels": self.levels,
            "text": text,
        }
