"""From a run folder to its summary.json and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from load.report.data import read
from load.report.page import page
from load.report.summary import summarise, write


def build(folder: Path, against: Path | None = None) -> dict[str, Any]:
    """Writes both files into `folder` and returns the summary. Raises OSError and ValueError as `read` does."""
    run = read(folder)
    summary = summarise(run)
    old = read(against) if against is not None else None
    old_summary = summarise(old) if old is not None else None
    write(summary, folder / "summary.json")
    (folder / "report.html").write_text(page(run, summary, old, old_summary))
    return summary
