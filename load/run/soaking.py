"""What every soak is given, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Soak:
    short: bool
    out: Path
    """A folder for results and logs; it exists."""
    gateway_cores: frozenset[int]
    other_cores: frozenset[int]
    settings: tuple[str, ...] = ()
    """SECTION.KEY=VALUE of the gateway."""
    count: int = 0
    """How many of whatever it repeats; 0: its own."""
    at_once: int = 0
    """How many of them at a time; 0: its own."""


@dataclass(slots=True)
class Outcome:
    title: str
    ok: bool
    findings: list[str]
    """Sentences, the verdict first."""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    data: dict[str, Any] = field(default_factory=dict)


def markdown(outcome: Outcome, machine: dict[str, Any]) -> str:
    lines = [f"# {outcome.title}", "", *(f"- {finding}" for finding in outcome.findings), ""]
    if outcome.rows:
        lines += [
            "| " + " | ".join(outcome.columns) + " |",
            "|" + "---|" * len(outcome.columns),
            *("| " + " | ".join(row) + " |" for row in outcome.rows),
            "",
        ]
    lines.append(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {machine['date']}. `{machine['command']}`"
    )
    return "\n".join(lines) + "\n"


def write(outcome: Outcome, machine: dict[str, Any], folder: Path, name: str) -> None:
    (folder / f"{name}.md").write_text(markdown(outcome, machine))
    found = {
        "title": outcome.title, "ok": outcome.ok, "findings": outcome.findings, "machine": machine, **outcome.data,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
