"""What was found when a model was looked at: sentences with a place and a weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and something is worth mending."""
    ERROR = "error"
    """Triton, or Parley, cannot use the model like this."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    text: str
    """One sentence, fit for a person."""
    file: str = ""
    """Path or URL, where there is one."""
    line: int = 0
    """In `file`, from 1; 0 when not known."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{place}: {self.text}" if place else self.text


def error(text: str, file: str = "", line: int = 0) -> Finding:
    return Finding(Level.ERROR, text, file, line)


def warning(text: str, file: str = "", line: int = 0) -> Finding:
    return Finding(Level.WARNING, text, file, line)


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def first_error(findings: Iterable[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.level is Level.ERROR), None)
