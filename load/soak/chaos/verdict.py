"""Whether all was well, and the table of what each caller saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from load.report.figures import percentile
from load.run.soaking import Outcome
from load.soak.chaos.kinds import KINDS
from load.soak.chaos.people import People
from load.soak.chaos.record import Course
from load.soak.chaos.seen import (
    AFTER_S,
    NOTHING,
    Floats,
    Frames,
    Seen,
    by_kind,
    counted,
    look,
    read_frames,
    waits,
)

_LATE_MS = 500.0
"""A reply is late when it comes so much later than nineteen in twenty do while nothing is wrong."""
GAP_MS, _GAP_RATIO = 100.0, 2.0
"""A pause in a reply is noticed when it is so long, and so many times the calm p99 of jitter."""
JITTER_RATIO, JITTER_MS = 1.5, 5.0
"""Neighbours are undisturbed when their p99 is below so many times the calm one, or above it by less than so much:
what two runs of the same calm differ by on a machine with other work."""
_COLUMNS = (
    "part",
    "fault",
    "times",
    "what callers saw",
    "works again, s: p50 / max",
    "beside it: jitter p99, ms",
)


def outcome(course: Course, people: People, frames_file: Path) -> Outcome:
    """Reads the frames; everything else is at hand."""
    who = {
        number: caller for number in range(1, 1_000_000) if (caller := people.caller_of(number)) is not None
    }
    return judge(course, people, read_frames(frames_file, who))


def judge(course: Course, people: People, frames: Frames) -> Outcome:
    events = sorted(people.events, key=lambda event: event.t)
    calm_events = [event for event in events if course.calm_from <= event.t <= course.calm_until]
    normal = [event.ms for event in calm_events if event.name == "voice_to_voice" and event.ok]
    late_ms = percentile(normal, 0.95) + _LATE_MS
    calm = _calm_frames(course, frames)
    gap_ms = max(GAP_MS, _GAP_RATIO * percentile(calm, 0.99)) if len(calm) else GAP_MS
    ends = [*(blow.at for blow in course.blows[1:]), course.ended]
    seen = [
        look(blow, until, events, frames, course.callers, late_ms, gap_ms)
        for blow, until in zip(course.blows, ends, strict=True)
    ]
    beside = _joined(one.beside_ms for one in seen)
    stale = sum(int(event.ms) for event in events if event.name == "stale_frames")
    usual = waits(events, frames, course.callers, course.calm_from, course.calm_until)
    faults = _complaints(course, seen, stale, calm, beside)
    back = [value for one in seen for value in one.back_s.values()]
    touched = sum(len(one.touched) for one in seen)
    findings = [
        f"{len(seen)} faults under {course.callers} live sessions in {course.ended - course.blows[0].at:.0f} s: "
        f"{'all is well' if not faults else 'NOT FINE: ' + '; '.join(faults)}.",
        f"{len(seen) * course.callers} times a caller lived through a fault, and {touched} times noticed it. Every one "
        f"of them heard a whole reply again: p50 {_s(back, 0.5)}, at most {_s(back, 1.0)} s after the fault began. "
        f"Half of it is talk: with nothing wrong the next reply begins {_s(usual, 0.5)} s after any moment "
        f"(p50; at most {_s(usual, 1.0)}).",
        f"Stale frames: {stale}. Tasks at rest: {course.tasks_before:.0f} before, {course.tasks_after:.0f} after; "
        f"requests still open at the parts: {sum(course.left_open.values())}.",
        f"Sessions lost with {sum(blow.lost >= 0 for blow in course.blows)} killed workers: "
        f"{sum(len(one.lost) for one in seen if one.blow.lost >= 0)}, all of them that worker's; "
        f"every caller came back.",
        f"Jitter of those who saw nothing, within {AFTER_S:g} s of a fault: p99 {percentile(beside, 0.99):.1f} ms "
        f"({len(beside):,} frames); calm: {percentile(calm, 0.99):.1f} ms ({len(calm):,} frames).",
        f"Callers sent their own frames late by p99 {percentile(course.send_late_ms, 0.5):.1f} ms (median second).",
    ]
    return Outcome(
        "Soak: chaos", not faults, findings, _COLUMNS, _rows(seen),
        {
            "callers": course.callers, "faults": len(seen), "stale_frames": stale,
            "seconds": course.ended - course.blows[0].at,
            "tasks_before": course.tasks_before, "tasks_after": course.tasks_after, "left_open": course.left_open,
            "jitter_p99_ms": {"calm": percentile(calm, 0.99), "beside": percentile(beside, 0.99)},
            "late_ms": late_ms, "gap_ms": gap_ms, "complaints": faults,
            "blows": [
                {
                    "kind": one.blow.kind, "at_s": one.blow.at - course.blows[0].at,
                    "lasted_s": one.blow.over - one.blow.at, "saw": dict(counted([one])),
                    "back_s": sorted(round(value, 3) for value in one.back_s.values()), "lost": len(one.lost),
                    "jitter_p99_ms": percentile(one.beside_ms, 0.99) if len(one.beside_ms) else None,
                }
                for one in seen
            ],
        },
    )  # fmt: skip


def _complaints(course: Course, seen: Sequence[Seen], stale: int, calm: Floats, beside: Floats) -> list[str]:
    found = []
    never = {(number, caller) for number, callers in course.missing.items() for caller in callers}
    never |= {(number, caller) for number, one in enumerate(seen) for caller in one.never}
    if never:
        where = Counter(seen[number].blow.kind if number >= 0 else "the beginning" for number, _ in never)
        found.append(f"{len(never)} callers heard no reply any more after {', '.join(where)}")
    if stale:
        found.append(f"{stale} stale frames")
    if course.tasks_after > course.tasks_before:
        found.append(f"tasks at rest grew from {course.tasks_before:.0f} to {course.tasks_after:.0f}")
    if any(course.left_open.values()):
        found.append(f"requests were left open at the parts: {course.left_open}")
    killed = sum(one.blow.lost >= 0 for one in seen)
    if course.restarts != killed:
        found.append(f"{killed} workers were killed, but {course.restarts} started again")
    for one in seen:
        if one.blow.lost >= 0 and len(one.lost) != one.blow.lost:
            found.append(f"a killed worker had {one.blow.lost} sessions, but {len(one.lost)} were lost")
        strangers = one.lost - set(one.blow.hit)
        if one.blow.lost < 0 and strangers:
            found.append(f"{len(strangers)} callers were cut off by {one.blow.kind}")
    before, after = percentile(calm, 0.99), percentile(beside, 0.99)
    if len(calm) and len(beside) and after > max(before * JITTER_RATIO, before + JITTER_MS):
        found.append(f"neighbours' jitter moved from {before:.1f} to {after:.1f} ms")
    return found


def _calm_frames(course: Course, frames: Frames) -> Floats:
    """Of the calm part, and of the moments right before each fault, by when all have recovered from the last."""
    begins = [blow.at for blow in course.blows]
    pieces = [frames.between(course.calm_from, course.calm_until)]
    pieces += [frames.between(at - 0.5, at) for at in begins]
    return _joined(piece.late_ms for piece in pieces)


def _joined(pieces: Iterable[Floats]) -> Floats:
    return np.concatenate([np.empty(0), *pieces])


def _rows(seen: Sequence[Seen]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    kinds = by_kind(seen)
    for kind in KINDS:
        theirs = kinds.get(kind.name)
        if not theirs:
            continue
        back = [value for one in theirs for value in one.back_s.values()]
        beside = _joined(one.beside_ms for one in theirs)
        found.append(
            (
                kind.part,
                kind.text,
                str(len(theirs)),
                _sights(counted(theirs)),
                f"{_s(back, 0.5)} / {_s(back, 1.0)}" if back else "–",
                f"{percentile(beside, 0.99):.1f}" if len(beside) else "–",
            )
        )
    return found


def _sights(counts: Counter[str]) -> str:
    """The most frequent first, those who saw nothing last."""
    whole = sum(counts.values())
    told = [f"{saw} {n}" for saw, n in counts.most_common() if saw != NOTHING]
    return "; ".join([*told, f"nothing {counts[NOTHING]} of {whole}"])


def _s(values: Sequence[float], share: float) -> str:
    return f"{percentile(values, share):.1f}" if values else "–"
