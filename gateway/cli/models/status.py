"""`parley models status`: everything that is known of some models."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from rich.console import Console

from gateway.cli.common import FAILED, OK
from gateway.cli.models.connection import connect, look
from gateway.cli.models.facts import Row, duration
from gateway.cli.models.listing import as_json, state_words
from gateway.triton.manager.types import State


async def run_status(options: argparse.Namespace) -> int:
    """Exit code 0 when all of them are ready."""
    async with connect(options) as to:
        seen = await look(to)
    by_name = {row.name: row for row in seen.rows}
    wanted = options.names or [row.name for row in seen.rows if row.resident]
    unknown = Row("", State.ABSENT, reason=f"no such model on the Triton at {to.where}")
    rows = [by_name.get(name, replace(unknown, name=name)) for name in wanted]
    if options.json:
        print(json.dumps([as_json(row) | {"ready": is_ready(row)} for row in rows], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for row in rows:
            console.print(f"{row.name}  {state_words(row)}", markup=False)
            for title, fact in facts_of(row):
                console.print(f"  {title:<14}{fact}", markup=False)
    return OK if all(is_ready(row) for row in rows) else FAILED


def is_ready(row: Row) -> bool:
    """Whether it takes new sessions."""
    return row.state is State.READY


def facts_of(row: Row) -> list[tuple[str, str]]:
    """What there is to say, in the order of a person's questions."""
    info = row.info
    facts = [
        ("reason", row.reason),
        ("last failure", row.last_failure if row.last_failure != row.reason else ""),
        ("in change", row.changing),
        ("version", ", ".join(row.versions)),
        ("resident", _resident(row)),
        ("leases", _leases(row)),
        ("idle", duration(row.idle_s) if row.idle_s is not None else ""),
        ("unloaded", f"in {duration(row.evict_in_s)}, when nobody asks for it" if row.evict_in_s else ""),
        ("last load", f"took {duration(row.load_s)}" if row.load_s else ""),
        ("family", row.family),
    ]
    if info is not None:
        facts += [
            ("engine", info.engine),
            ("backend", info.backend),
            ("languages", ", ".join(info.languages)),
            ("voices", ", ".join(info.voices)),
            ("rate", f"{info.sample_rate} Hz" if info.sample_rate else ""),
            ("streaming", "yes" if info.streaming else "no"),
            ("tags", ", ".join(info.tags)),
            ("memory", f"{info.memory_mb} MB" if info.memory_mb else ""),
            ("needs a GPU", "yes" if info.needs_gpu else ""),
            ("default", "of its family" if info.default else ""),
            ("licence", info.license),
        ]
    return [(title, fact) for title, fact in facts if fact]


def _resident(row: Row) -> str:
    if not row.resident:
        return ""
    since = (
        f"for {duration(row.since_s)}" if row.since_s is not None else "since before anybody kept a record"
    )
    return since + (f", {_WHY[row.why]}" if row.why in _WHY else "")


_WHY = {
    "default": "as the default of its family",
    "preload": "as a preload",
    "session": "for a session that asked for it",
    "operator": "by an operator",
    "found": "loaded by somebody else",
}


def _leases(row: Row) -> str:
    if not row.sessions:
        return ""
    sessions = f"{row.sessions} session{'s' * (row.sessions != 1)}"
    return f"{sessions} of {', '.join(row.holders)}" if row.holders else sessions
