"""What is kept of a course, for the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from load.soak.chaos.kinds import Blow


@dataclass(slots=True)
class Course:
    """What happened, for the verdict."""

    callers: int
    calm_from: float = 0.0
    calm_until: float = 0.0
    blows: list[Blow] = field(default_factory=list)
    ended: float = 0.0
    tasks_before: float = 0.0
    tasks_after: float = 0.0
    left_open: dict[str, int] = field(default_factory=dict)
    """Requests that the emulated parts still had open at the end, by part."""
    restarts: int = 0
    """Workers that were started again."""
    missing: dict[int, set[int]] = field(default_factory=dict)
    """Callers that heard no reply within 30 s of a fault's end, by the fault's place."""
    send_late_ms: list[float] = field(default_factory=list)
    """The callers' own lateness, p99 of a second, looked at before each fault."""
