"""What the soak found, in sentences and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from load.report.figures import Slope, percentile, slope
from load.run.soaking import Outcome
from load.soak.chaos.people import Event
from load.soak.models.house import Kind
from load.soak.models.memory import Memory
from load.soak.models.work import Done

_WARM = 0.1
"""This share of the cycles fills pools and arenas, once: no part of the slopes."""
_NOTICES = ("warning", "error")


@dataclass(slots=True)
class Part:
    kind: Kind
    callers: int
    cycles: int
    rolls: int
    done: Done
    events: Sequence[Event]
    missing: list[int]
    """Callers who heard no reply after the end of it all."""
    memory: Memory
    seconds: float

    @property
    def failed(self) -> Counter[str]:
        """Turns without a reply, and calls that ended, by reason."""
        found: Counter[str] = Counter()
        for event in self.events:
            if event.name in ("turn", "connect", "session") and not event.ok:
                found[f"{event.name}: {event.why or 'unknown'}"] += 1
        return found

    @property
    def notices(self) -> Counter[str]:
        return Counter(event.why for event in self.events if event.name.startswith(_NOTICES))

    @property
    def ok(self) -> bool:
        done = self.done
        return not (
            self.failed
            or self.missing
            or done.failures
            or done.broken
            or done.cycles < self.cycles
            or sum(done.rolls.values()) < self.rolls
        )


def outcome(parts: Sequence[Part], *, short: bool) -> Outcome:
    findings, rows, data = [], [], {}
    for part in parts:
        findings += _findings(part, short)
        for what, track in part.memory.rows.items():
            rows.append(_row(part, what, track))
        data[part.kind.name] = _data(part)
    columns = ("calls on", "memory of", "at first, MB", "at last, MB", "kB a cycle (95 %)")
    ok = all(part.ok for part in parts)
    return Outcome("Soak: models that come and go", ok, findings, columns, rows, data)


def _findings(part: Part, short: bool) -> list[str]:
    done = part.done
    turns = [event for event in part.events if event.name == "turn"]
    replies = [event.ms for event in part.events if event.name == "voice_to_voice" and event.ok]
    verdict = "nothing failed" if part.ok else "NOT FINE"
    rolled = ", ".join(f"{name} {count}" for name, count in sorted(done.rolls.items()))
    lines = [
        f"{part.kind.name} models, {part.callers} live calls, {part.seconds:.0f} s: {done.cycles:,} loads and unloads of "
        f"further models and {sum(done.rolls.values())} rolling version changes ({rolled}): {verdict}.",
        f"Turns: {len(turns):,}, failed: {sum(part.failed.values())}{_whys(part.failed)}; voice to voice p50 "
        f"{percentile(replies, 0.5):.0f}, p95 {percentile(replies, 0.95):.0f} ms; "
        f"notices to callers: {sum(part.notices.values())}{_whys(part.notices)}.",
        f"Observed utterances and sentences, each pinned to its version: {done.sequences:,}, of which {done.spanned} saw a "
        f"newer version come; broken: {sum(done.broken.values())}{_whys(done.broken)}.",
    ]
    if done.failures:
        lines.append(f"The operator's requests that failed: {_whys(done.failures)}.")
    if part.missing:
        lines.append(f"Callers who heard nothing more at the end: {part.missing}.")
    return lines


def _whys(found: Counter[str]) -> str:
    return f" ({', '.join(f'{why} {n}' for why, n in found.most_common(6))})" if found else ""


def _slope(part: Part, track: Sequence[tuple[int, float]]) -> Slope | None:
    warm = [(n, mb) for n, mb in track if n >= _WARM * part.cycles]
    if len(warm) < 4:
        return None
    x, y = np.array(warm, dtype=np.float64).T
    return slope(x, 1000 * y)


def _row(part: Part, what: str, track: Sequence[tuple[int, float]]) -> tuple[str, ...]:
    found = _slope(part, track)
    kb = "–" if found is None else f"{found.per_x:+.2f} ({found.low:+.2f} … {found.high:+.2f})"
    return part.kind.name, what, f"{track[0][1]:.1f}", f"{track[-1][1]:.1f}", kb


def _data(part: Part) -> dict[str, object]:
    done = part.done
    return {
        "callers": part.callers, "cycles": done.cycles, "rolls": dict(done.rolls), "turns_failed": dict(part.failed),
        "turns": sum(event.name == "turn" for event in part.events), "notices": dict(part.notices),
        "probes": done.sequences, "spanned": done.spanned, "broken": dict(done.broken),
        "operator_failures": dict(done.failures), "seconds": part.seconds,
        "memory_mb": {what: track[:: max(1, len(track) // 50)] for what, track in part.memory.rows.items()},
    }  # fmt: skip
