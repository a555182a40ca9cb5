"""`parley models catalogue`: checkpoints that are known by name, and what is known of each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from gateway.cli.common import OK, Fault, load_settings
from gateway.cli.models.connection import repositories_of
from gateway.cli.models.listing import print_table
from gateway.triton.catalogue.repositories import is_url
from gateway.triton.pulling.entries import FILE, Entry, Shelf, load_shelf
from gateway.triton.pulling.errors import CatalogueError
from gateway.triton.pulling.plan import megabytes


async def run_catalogue_verb(options: argparse.Namespace) -> int:
    shelf = open_shelf(options.catalogue)
    chosen = {name: shelf.models[name] for name in options.names if name in shelf.models}
    if missing := [name for name in options.names if name not in shelf.models]:
        raise Fault(f"no catalogue names {', '.join(missing)}; without a name all are listed")
    rows = chosen or shelf.models
    if options.json:
        told = {
            "models": {name: entry.model_dump(mode="json") for name, entry in rows.items()},
            "pairs": {name: pair.model_dump(mode="json") for name, pair in shelf.pairs.items()},
        }
        print(json.dumps(told, indent=2))
        return OK
    if not rows:
        raise Fault(f"no model repository here has a {FILE}; name one with --catalogue")
    print_table(table_of(rows))
    if not options.names:
        for name, pair in shelf.pairs.items():
            print(
                f"scripts/demo --models {name}: {pair.asr} and {pair.tts or 'the built-in voice'}"
                + _untested(shelf, *(one for one in (pair.asr, pair.tts) if one is not None))
            )
    for name in options.names:
        entry = shelf.models[name]
        print(f"{name}: {entry.source} at {entry.revision}" + (f"; {entry.note}" if entry.note else ""))
    return OK


def open_shelf(named: Sequence[str] | None = None) -> Shelf:
    """The named files, else those of the model repositories on this machine. Raises: Fault."""
    files = [Path(one) for one in named or ()]
    if not files:
        options = argparse.Namespace(repository=None)
        places = repositories_of(options, load_settings(), stack=True)
        files = [Path(one) / FILE for one in places if not is_url(one)]
        files = [file for file in files if file.is_file()]
    try:
        return load_shelf(files)
    except CatalogueError as error:
        raise Fault(str(error)) from None


def table_of(entries: dict[str, Entry]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "family", "kind", "size", "licence", "languages", "tested"):
        table.add_column(title, justify="right" if title == "size" else "left", no_wrap=True)
    for name, entry in entries.items():
        languages = ", ".join(entry.languages[:3]) or "-"
        languages += f" +{len(entry.languages) - 3}" if len(entry.languages) > 3 else ""
        licence = escape(entry.licence)
        if entry.licence_of().noncommercial:
            licence += " [yellow](non-commercial)[/]"
        table.add_row(
            name, entry.family, entry.kind, megabytes(entry.size_mb * 1e6) if entry.size_mb else "-", licence,
            languages, "[green]tested[/]" if entry.tested else "[yellow]untested[/]",
        )  # fmt: skip
    return table


def _untested(shelf: Shelf, *names: str) -> str:
    untested = [name for name in names if not shelf.models[name].tested]
    return f" ({'both ' if len(untested) == 2 else untested[0] + ' '}untested)" if untested else ""
