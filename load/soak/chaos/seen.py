"""What each caller saw of each fault, from their own samples."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from load.soak.chaos.kinds import Blow
from load.soak.chaos.people import Event

NOTHING = "nothing"
AFTER_S = 2.0
"""What neighbours heard is looked at for so long from a fault on, and before it."""
RECOVER_S = 30.0
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Frames:
    """Every frame of every reply, in the order of time."""

    t: Floats
    """UNIX seconds."""
    caller: npt.NDArray[np.int64]
    reply: npt.NDArray[np.int64]
    """Replies of one call, counted."""
    late_ms: Floats

    def between(self, begin: float, end: float) -> Frames:
        a, b = np.searchsorted(self.t, [begin, end])
        return Frames(self.t[a:b], self.caller[a:b], self.reply[a:b], self.late_ms[a:b])

    def of(self, callers: Collection[int]) -> Frames:
        chosen = np.isin(self.caller, np.fromiter(callers, dtype=np.int64, count=len(callers)))
        return Frames(self.t[chosen], self.caller[chosen], self.reply[chosen], self.late_ms[chosen])


@dataclass(slots=True)
class Seen:
    """One fault as all callers met it."""

    blow: Blow
    saw: dict[int, str]
    """By caller."""
    back_s: dict[int, float] = field(default_factory=dict)
    """From the fault to the first sound of the next reply that was heard out, of those who saw something."""
    lost: set[int] = field(default_factory=set)
    """Callers whose call ended."""
    never: set[int] = field(default_factory=set)
    """Callers who saw something, and heard no reply to its end within 30 s."""
    beside_ms: Floats = field(default_factory=lambda: np.empty(0))
    """Lateness of every frame of those who saw nothing, ms."""

    @property
    def touched(self) -> set[int]:
        return {caller for caller, saw in self.saw.items() if saw != NOTHING}


def look(
    blow: Blow,
    until: float,
    events: Sequence[Event],
    frames: Frames,
    callers: int,
    late_ms: float,
    gap_ms: float,
) -> Seen:
    """events: sorted by time, all of them. until: the next fault, or the end. late_ms: voice to voice above it
    is noticed as late; gap_ms: so long a pause in a reply is noticed."""
    mine: dict[int, list[Event]] = {caller: [] for caller in range(callers)}
    later: dict[int, list[Event]] = {caller: [] for caller in range(callers)}
    begin = bisect.bisect_left(events, blow.at, key=lambda event: event.t)
    for event in events[begin:]:
        if event.t < until:
            mine[event.caller].append(event)
        if event.t > until + RECOVER_S:
            break
        later[event.caller].append(event)
    heard = frames.between(blow.at, until + RECOVER_S)
    gaps = heard.between(blow.at, blow.over + AFTER_S)
    gapped = set(gaps.caller[gaps.late_ms > gap_ms].tolist()) & _whose_voice(blow, callers)
    seen = Seen(blow, {})
    for caller, theirs in mine.items():
        saw, bad_at = _worst(theirs, late_ms)
        if saw == NOTHING and caller in gapped:
            saw, bad_at = "a gap in a reply", blow.over
        seen.saw[caller] = saw
        if any(event.name == "session" for event in theirs):
            seen.lost.add(caller)
        if saw == NOTHING:
            continue
        at = _again(later[caller], bad_at, heard.of([caller]))
        if at is None:
            seen.never.add(caller)
        else:
            seen.back_s[caller] = at - blow.at
    beside = set(range(callers)) - seen.touched - set(blow.hit)
    seen.beside_ms = heard.between(blow.at, blow.at + AFTER_S).of(beside).late_ms
    return seen


def _whose_voice(blow: Blow, callers: int) -> set[int]:
    """Who may hear gaps of it; of everybody else, they are jitter."""
    return set(range(callers)) if blow.part in ("TTS", "Triton") else set(blow.hit)


def _worst(events: Iterable[Event], late_ms: float) -> tuple[str, float]:
    """What a caller would tell of it, and since when it was so."""
    ended = failed = warned = late = None
    for event in events:
        if event.name == "session" and not event.ok:
            ended = ended or event
        elif event.name == "turn" and not event.ok:
            failed = failed or event
        elif event.name in ("warning", "error"):
            warned = warned or event
        elif event.name == "voice_to_voice" and event.ok and event.ms > late_ms:
            late = late or event
    if ended is not None:
        kind, _, status = ended.why.partition(":")
        return f"the call ended: {status or kind}", ended.t
    if failed is not None:
        kind, _, code = failed.why.partition(":")
        if kind == "error":
            return f"`error {code}`, no reply", failed.t
        return {"reply_failed": "the reply broke off", "no_final": "not understood"}.get(kind, kind), failed.t
    if warned is not None:
        return f"`{warned.name} {warned.why}`, then the reply", warned.t
    if late is not None:
        return "a late reply", late.t - 1e-6
    return NOTHING, 0.0


def _again(events: Iterable[Event], after: float, frames: Frames) -> float | None:
    """When the first reply that was heard out, of those that ended after that time, began to sound."""
    good = next((event for event in events if event.name == "turn" and event.ok and event.t > after), None)
    if good is None:
        return None
    theirs = frames.between(good.t - good.ms / 1000, good.t)
    if not len(theirs.t):
        return good.t
    return float(theirs.t[np.argmax(theirs.reply == theirs.reply[-1])])


def waits(events: Sequence[Event], frames: Frames, callers: int, begin: float, end: float) -> list[float]:
    """The same time as `back_s`, from moments at which nothing was wrong: s."""
    found = []
    for caller in range(callers):
        good = [event for event in events if event.caller == caller and begin < event.t < end]
        theirs = frames.of([caller])
        for at in np.arange(begin, end - AFTER_S, AFTER_S):
            again = _again(good, float(at), theirs)
            if again is not None and again >= at:
                found.append(again - float(at))
    return found


def read_frames(path: Path, who: Mapping[int, int]) -> Frames:
    """who: callers by the number of their call. Calls of nobody are left out."""
    if not path.exists() or path.stat().st_size < 40:
        return Frames(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1, 2, 4), ndmin=2)
    numbers = rows[:, 1].astype(np.int64)
    places = np.full(int(numbers.max(initial=0)) + 1, -1, dtype=np.int64)
    for number, caller in who.items():
        if number < len(places):
            places[number] = caller
    rows = np.column_stack([rows, places[numbers]])
    rows = rows[rows[:, 4] >= 0]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Frames(rows[:, 0], rows[:, 4].astype(np.int64), rows[:, 2].astype(np.int64), rows[:, 3])


def by_kind(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """In alphabetical order of the parts, as the kinds are listed."""
    found: dict[str, list[Seen]] = {}
    for one in seen:
        found.setdefault(one.blow.kind, []).append(one)
    return found


def counted(seen: Iterable[Seen]) -> Counter[str]:
    """What was seen, and by how many callers."""
    return Counter(saw for one in seen for saw in one.saw.values())
