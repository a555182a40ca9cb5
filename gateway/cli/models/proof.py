"""The proof of an exported model, as `parley models verify` shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.models.listing import print_table
from gateway.triton.catalogue.repositories import is_url
from gateway.triton.errors import TritonError
from gateway.triton.models.graphs import GraphError
from gateway.triton.proof.prove import is_exported, prove
from gateway.triton.proof.proved import Proved, failed


async def prove_exported(
    repositories: Iterable[str | Path], names: Sequence[str], *, on_triton: bool
) -> list[Proved]:
    """Of every exported model in these repositories, or of those that were named."""
    folders = _exported(repositories, names)
    console = Console(stderr=True)
    found: list[Proved] = []
    for folder in folders:
        with console.status(folder.name) if console.is_terminal else nullcontext() as status:
            say = status.update if status is not None else _nothing
            try:
                found += await prove(folder, on_triton=on_triton, say=say)
            except GraphError as error:
                found.append(failed(folder.name, "proof", str(error)))
            except (TritonError, OSError, ValueError, KeyError) as error:
                found.append(failed(folder.name, "proof", f"{type(error).__name__}: {error}"))
    return found


def _exported(repositories: Iterable[str | Path], names: Sequence[str]) -> list[Path]:
    places = [Path(one) for one in repositories if not is_url(one)]
    return [
        folder
        for place in places
        if place.is_dir()  # of one that is not, the catalogue says so
        for folder in sorted(place.iterdir())
        if is_exported(folder) and (not names or folder.name in names)
    ]


def print_proofs(proofs: Sequence[Proved]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("model", "against torch", "compared", "worst", "limit", "result"):
        table.add_column(
            title, no_wrap=True, justify="right" if title in ("compared", "worst", "limit") else "left"
        )
    table.add_column("where", overflow="fold")
    before = ""
    for one in proofs:
        table.add_row(
            escape(one.model) if one.model != before else "",
            one.how,
            str(one.compared),
            _number(one.worst, one.unit) if one.compared else "-",
            _number(one.limit, one.unit) if one.compared else "-",
            _result(one),
            escape(one.note),
        )
        before = one.model
    print_table(table)


def _result(one: Proved) -> str:
    """What was not run, or could not be, differs from nothing."""
    if one.compared:
        return "[green]equal[/]" if one.ok else "[red]differs[/]"
    return "-" if one.ok else "[red]not proved[/]"


def _number(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "∞"
    text = f"{value:.0f}" if unit else f"{value:.1e}" if value else "0"
    return f"{text} {unit}".strip()


def _nothing(_: object) -> None:
    pass
