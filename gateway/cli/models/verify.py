"""`parley models verify`: would models load, do they keep their contract, and do exported ones equal torch?"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.common import FAILED, OK, Fault, load_settings
from gateway.cli.models.connection import Connected, connect, is_managed, label, repositories_of
from gateway.cli.models.listing import print_table
from gateway.cli.models.proof import print_proofs, prove_exported
from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.findings import Finding, Level, error, ok
from gateway.triton.catalogue.verify import verify
from gateway.triton.errors import TritonError
from gateway.triton.leases.client import Leases, TritonLeases
from gateway.triton.leases.local import LocalLeases
from gateway.triton.model_info import SYSTEM_PREFIX

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
_WORST_FIRST = list(reversed(Level))

Found = dict[str, list[Finding]]
"""By model."""


async def run_verify(options: argparse.Namespace) -> int:
    """Exit code 1 when any of them has an error, says something else than torch, or a repository cannot be read."""
    if options.repository and options.triton is None:
        found, unread = await _offline(options)
    else:
        found, unread = await _with_triton(options)
    proofs = await prove_exported(
        repositories_of(options, load_settings(), stack=False), options.names, on_triton=not options.no_triton
    )
    missing = [error("it is in no place that was looked at; `parley models list` shows the models there are")]
    rows = {name: found.get(name, missing) for name in options.names or sorted(found)}
    if not rows and not unread:
        raise Fault("no model was found to verify")
    if options.json:
        told = [
            {"name": name, "level": level_of(its).value, "findings": [asdict(one) for one in its]}
            for name, its in rows.items()
        ]
        proved = [{**asdict(one), "worst": _finite(one.worst)} for one in proofs]
        print(json.dumps({"models": told, "proofs": proved, "unread": unread}, indent=2))
    else:
        if rows:
            _print(rows)
        if proofs:
            print()
            print_proofs(proofs)
        for sentence in unread.values():
            print(sentence)
    failed = any(level_of(its) is Level.ERROR for its in rows.values()) or not all(one.ok for one in proofs)
    return FAILED if failed or (unread and not options.names) else OK


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def level_of(findings: Sequence[Finding]) -> Level:
    """The worst of them; ok when there is none."""
    levels = {one.level for one in findings}
    return next((level for level in _WORST_FIRST if level in levels), Level.OK)


async def _offline(options: argparse.Namespace) -> tuple[Found, dict[str, str]]:
    """Folders alone. What the machine has that will serve them is not known, and held against no model."""
    catalogue = Catalogue(repositories_of(options, load_settings(), stack=False))
    await catalogue.refresh()
    return _of_folders(catalogue)


async def _with_triton(options: argparse.Namespace) -> tuple[Found, dict[str, str]]:
    """The folders that can be read from here, and each resident model by using it."""
    async with connect(options) as to:
        await to.catalogue.refresh()
        found, unread = _of_folders(to.catalogue)
        resident = {one.name for one in await to.repository.index() if one.state == "READY"}
        wanted = sorted(resident & set(options.names) if options.names else resident)
        leases = (
            TritonLeases(to.channel, key=to.key, label=label()) if await is_managed(to) else LocalLeases()
        )
        try:
            for name in wanted:  # one after the other: sessions use them meanwhile
                if not name.startswith(SYSTEM_PREFIX):
                    found[name] = [*found.get(name, []), *await _by_use(to, leases, name)]
        finally:
            await leases.close()
    return found, unread


def _of_folders(catalogue: Catalogue) -> tuple[Found, dict[str, str]]:
    problems = catalogue.problems()
    names = {info.name for info in catalogue.all()} | set(problems)
    found: Found = {
        name: catalogue.findings(name) or [ok("its folder: structure, parameters, tensors")]
        for name in names
        if catalogue.folder(name) is not None
    }
    for name, sentence in problems.items():
        if level_of(found.get(name, [])) is not Level.ERROR:  # in two repositories, or not in Triton's
            found[name] = [error(sentence), *found.get(name, [])]
    return found, catalogue.unread


async def _by_use(to: Connected, leases: Leases, name: str) -> list[Finding]:
    """It stays loaded meanwhile."""
    try:
        await leases.hold(name)
    except TritonError as refused:
        return [error(str(refused))]
    try:
        with _status(f"using {name}"):
            return await verify(to.channel, await to.repository.describe(name))
    except TritonError as gone:
        return [error(str(gone))]
    finally:
        leases.drop(name)


@contextmanager
def _status(what: str) -> Iterator[None]:
    """On a terminal, while it takes its seconds."""
    console = Console(stderr=True)
    with console.status(what) if console.is_terminal else nullcontext():
        yield


def _print(rows: Mapping[str, Sequence[Finding]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "result"):
        table.add_column(title, no_wrap=True)
    table.add_column("what", overflow="fold")
    for name, findings in rows.items():
        worst_first = sorted(findings, key=lambda one: _WORST_FIRST.index(one.level))
        for number, one in enumerate(worst_first):
            result = f"[{_COLOURS[one.level]}]{one.level.value}[/]"
            table.add_row(escape(name) if number == 0 else "", result, escape(str(one)))
    print_table(table)
