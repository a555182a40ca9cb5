"""What `scripts/load` can run, with the number of callers and the time it takes unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from load.plans import SCENARIOS as ABOUT


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: str
    sessions: int
    duration_s: float
    """Of a ramp: the longest; it ends where the objective breaks."""


# The same as those of the shapes in load/shapes.py, which only a locust process can import.
_USUAL = {
    "baseline": (1, 25.0),
    "ramp": (200, 900.0),
    "spike": (64, 60.0),
    "reconnect": (32, 60.0),
    "mixed": (32, 60.0),
    "endurance": (32, 4 * 3600.0),
}

SCENARIOS = {name: Scenario(name, about, *_USUAL.get(name, (16, 60.0))) for name, about in ABOUT.items()}
PARTS = {
    "baseline": (
        "llm.replies=['That is done, as you wished.', 'It leaves at ten past four.', 'About three kilometres.']",
    )
}
"""Changes of the profile that come with a scenario, before those of the command line: a short run shall hold
several turns."""

REPORT = "report"
"""No scenario: makes the page of a finished run anew."""
