"""`parley models verify`: would models load, and do they keep their contract?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from google.protobuf import text_format
from rich.markup import escape
from rich.table import Table

from gateway.cli.common import FAILED, OK, Fault, load_settings
from gateway.cli.models.connection import Connected, connect, repositories_of
from gateway.cli.models.listing import print_table
from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.contract import check_contract
from gateway.triton.catalogue.findings import Finding, Level, error
from gateway.triton.catalogue.folder import CONFIG, ModelFolder
from gateway.triton.catalogue.parameters import check_parameters
from gateway.triton.errors import TritonError

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
_FINE = {"folder": "structure and contract", "Triton": "contract, as its Triton describes it"}

Found = dict[str, tuple[str, list[Finding]]]
"""By model: what was looked at (a key of _FINE), and what was found."""


async def run_verify(options: argparse.Namespace) -> int:
    """Exit code 1 when any of them has an error, or a repository cannot be read."""
    if options.repository and options.triton is None:
        found, unread = await _offline(options)
    else:
        found, unread = await _with_triton(options)
    missing = "", [error("nowhere that was looked; `parley models list` shows the models there are")]
    rows = {name: found.get(name, missing) for name in options.names or sorted(found)}
    if not rows and not unread:
        raise Fault("no model was found to verify")
    if options.json:
        told = [
            {
                "name": name,
                "level": level_of(its),
                "looked_at": where,
                "findings": [asdict(one) for one in its],
            }
            for name, (where, its) in rows.items()
        ]
        print(json.dumps({"models": told, "unread": unread}, indent=2))
    else:
        _print(rows)
        for sentence in unread.values():
            print(sentence)
    failed = any(level_of(its) is Level.ERROR for _, its in rows.values())
    return FAILED if failed or (unread and not options.names) else OK


def level_of(findings: Sequence[Finding]) -> Level:
    """The worst of them; ok when there is none."""
    order = list(Level)
    return max((one.level for one in findings), key=order.index, default=Level.OK)


async def _offline(options: argparse.Namespace) -> tuple[Found, dict[str, str]]:
    """Folders alone. What the machine has that will serve them is not known, and held against no model."""
    catalogue = Catalogue(repositories_of(options, load_settings(), stack=False))
    await catalogue.refresh()
    return _of_folders(catalogue)


async def _with_triton(options: argparse.Namespace) -> tuple[Found, dict[str, str]]:
    """The folders that can be read from here, and what Triton says of the resident models that are in none."""
    async with connect(options) as to:
        await to.catalogue.refresh()
        found, unread = _of_folders(to.catalogue)
        index = await to.repository.index()
        for name in sorted({one.name for one in index if one.state == "READY"} - set(found)):
            if not name.startswith("parley_"):
                found[name] = "Triton", await _as_described(to, name)
    return found, unread


def _of_folders(catalogue: Catalogue) -> tuple[Found, dict[str, str]]:
    problems = catalogue.problems()
    names = {info.name for info in catalogue.all()} | set(problems)
    found: Found = {
        name: ("folder", catalogue.findings(name)) for name in names if catalogue.folder(name) is not None
    }
    for name, sentence in problems.items():
        if name not in found:  # in two repositories
            found[name] = "folder", [error(sentence)]
        elif level_of(found[name][1]) is not Level.ERROR:
            found[name][1].insert(0, error(sentence))
    return found, catalogue.unread


async def _as_described(to: Connected, name: str) -> list[Finding]:
    try:
        config = await to.repository.config(name)
    except TritonError as gone:
        return [error(str(gone))]
    text = text_format.MessageToString(config).encode()
    folder = ModelFolder(name, to.where, frozenset({CONFIG}), {CONFIG: text})
    found = [*check_parameters(folder, config), *check_contract(folder, config)]
    # Lines of a text that nobody has would lead nowhere.
    return [Finding(one.level, one.text) for one in found]


def _print(rows: Mapping[str, tuple[str, list[Finding]]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "result"):
        table.add_column(title, no_wrap=True)
    table.add_column("what", overflow="fold")
    for name, (where, findings) in rows.items():
        worst = level_of(findings)
        for number, one in enumerate(findings or [None]):
            level = one.level if one is not None else worst
            table.add_row(
                escape(name) if number == 0 else "",
                f"[{_COLOURS[level]}]{level.value}[/]",
                escape(str(one) if one is not None else _FINE[where]),
            )
    print_table(table)
