"""`parley models list`: every model in a table, and what would be unloaded next."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.common import OK
from gateway.cli.models.connection import connect, look
from gateway.cli.models.facts import Row, duration, next_eviction
from gateway.triton.manager.types import State

_COLOURS = {
    State.READY: "green",
    State.LOADING: "yellow",
    State.DRAINING: "yellow",
    State.UNLOADING: "yellow",
    State.FAILED: "red",
    State.ABSENT: "dim",
}
_ROOMY, _WIDE = 110, 140
"""Columns of a terminal from which on more is shown."""
_PLAIN_WIDTH = 200
"""Of a table that is no terminal's: lines are for `grep`, and are not folded."""


async def run_list(options: argparse.Namespace) -> int:
    async with connect(options) as to:
        seen = await look(to)
    last = next_eviction(seen.rows, to.settings.models, managed=seen.managed)
    if options.json:
        told = {
            "triton": to.where,
            "models": [as_json(row) for row in seen.rows],
            "next_eviction": last.removeprefix("next eviction: "),
            "notes": seen.notes,
        }
        print(json.dumps(told, indent=2))
        return OK
    print_table(table_of(seen.rows, width=console_for_tables().width))
    console = Console(highlight=False, soft_wrap=True)
    for row in seen.rows:
        for text in (row.changing, "" if row.resident else row.reason):
            if text:
                console.print(f"{row.name}: {text}", markup=False)
    for note in seen.notes:
        console.print(note, markup=False)
    console.print(last, markup=False)
    return OK


def console_for_tables() -> Console:
    """On a terminal as wide as it is; elsewhere wide enough that no line is folded."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def print_table(table: Table) -> None:
    """Without the blanks that fill a terminal's lines, where it is none."""
    console = console_for_tables()
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table_of(rows: list[Row], *, width: int) -> Table:
    """Columns that matter least are left out of a narrow terminal; `status` has everything."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ["model", "version", "state", "why", "resident", "idle", "leases", "MB", "languages", "licence"]
    if width < _ROOMY:
        titles = [title for title in titles if title not in ("version", "languages", "licence")]
    for title in titles:
        right = title in ("resident", "idle", "leases", "MB")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        cells = {
            "model": escape(row.name),
            "version": ", ".join(row.versions) or "-",
            "state": f"[{_COLOURS[row.state]}]{state_words(row)}[/]",
            "why": row.why or "-",
            "resident": _short(row.since_s),
            "idle": _short(row.idle_s),
            "leases": _leases(row),
            "MB": str(row.memory_mb or "-"),
            "languages": _languages(row, 1 if width < _WIDE else 3),
            "licence": escape(row.info.license) if row.info is not None else "",
        }
        table.add_row(*(cells[title] for title in titles))
    return table


def state_words(row: Row) -> str:
    return "not loaded" if row.state is State.ABSENT else row.state.value


def as_json(row: Row) -> dict[str, Any]:
    """Every fact of a row; times in seconds."""
    told = asdict(row)
    info = told.pop("info") or {}
    info.pop("name", None)
    return told | {"family": row.family, "pinned": row.pinned, "resident": row.resident} | info


def _leases(row: Row) -> str:
    if not row.sessions:
        return "-"
    return f"{row.sessions} by {len(row.holders)}" if len(row.holders) > 1 else str(row.sessions)


def _languages(row: Row, most: int) -> str:
    languages = row.info.languages if row.info is not None else ()
    shown = ", ".join(languages[:most])
    return shown + (f" +{len(languages) - most}" if len(languages) > most else "")


def _short(seconds: float | None) -> str:
    """ "6m10s"."""
    if seconds is None:
        return "-"
    return duration(seconds if seconds < 1 else round(seconds)).replace("min", "m").replace(" ", "")
