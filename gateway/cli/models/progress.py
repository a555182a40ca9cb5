"""How several changes at the same time look: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gateway.cli.models.facts import duration

_TICK_S = 0.1
_NEARLY = 0.97
"""As full as a bar gets before it is over, however long it takes."""


class Shown(Protocol):
    """One model's line."""

    def begin(self, expected_s: float | None) -> None:
        """It is its turn. expected_s: what it took last time."""
        ...

    def say(self, text: str) -> None:
        """What it waits for."""
        ...

    def end(self, ok: bool, text: str) -> None: ...


@contextmanager
def show(names: Sequence[str], verb: str, *, quiet: bool) -> Iterator[Mapping[str, Shown]]:
    """By model. quiet: nothing on stdout, which is kept for JSON; bars go to stderr, if that is a terminal."""
    console = Console(stderr=quiet, highlight=False, soft_wrap=True)
    if console.is_terminal:
        with _bars(console, names, verb) as bars:
            yield bars
    elif quiet:
        yield {name: _Lines(name, verb, lambda _: None) for name in names}
    else:
        yield {name: _Lines(name, verb, lambda line: print(line, flush=True)) for name in names}


class _Lines:
    def __init__(self, name: str, verb: str, write: Callable[[str], None]) -> None:
        self._name, self._verb, self._write = name, verb, write
        self._said = ""

    def begin(self, expected_s: float | None) -> None:
        expected = f" (took {duration(expected_s)} last time)" if expected_s else ""
        self._write(f"{self._name}: {self._verb}ing{expected}")

    def say(self, text: str) -> None:
        if text != self._said:
            self._write(f"{self._name}: {text}")
        self._said = text

    def end(self, ok: bool, text: str) -> None:
        self._write(f"{self._name}: {text}" if ok else f"{self._name}: failed: {text}")


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, name: str) -> None:
        self._progress, self._task, self._name = progress, task, name
        self._begun: float | None = None
        self._expected_s: float | None = None

    def begin(self, expected_s: float | None) -> None:
        self._begun, self._expected_s = asyncio.get_running_loop().time(), expected_s
        self._progress.start_task(self._task)
        about = f"about {duration(expected_s)}" if expected_s else ""
        self._progress.update(self._task, total=1.0 if expected_s else None, about=about)

    def say(self, text: str) -> None:
        self._progress.update(self._task, about=escape(text))

    def tick(self, now: float) -> None:
        if self._begun is not None and self._expected_s:
            self._progress.update(self._task, completed=min((now - self._begun) / self._expected_s, _NEARLY))

    def end(self, ok: bool, text: str) -> None:
        self._begun = None
        # A sentence may be longer than the bar's line: it goes above it, whole.
        mark = "[green]ok[/]" if ok else "[red]failed[/]"
        self._progress.update(self._task, visible=False)
        self._progress.console.print(f"{mark:<16} {escape(self._name)}: {escape(text)}")


@contextmanager
def _bars(console: Console, names: Sequence[str], verb: str) -> Iterator[Mapping[str, Shown]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[about]}[/]"),
    )
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
    with progress:
        bars = {
            name: _Bar(
                progress, progress.add_task(f"{verb} {escape(name)}", start=False, total=None, about=""), name
            )
            for name in names
        }
        ticking = asyncio.create_task(_tick(progress, list(bars.values())))
        try:
            yield bars
        finally:
            ticking.cancel()
    sys.stdout.flush()


async def _tick(progress: Progress, bars: Sequence[_Bar]) -> None:
    """The picture, not the work, is looked at ten times a second."""
    clock = asyncio.get_running_loop().time
    while True:
        for bar in bars:
            bar.tick(clock())
        progress.refresh()
        await asyncio.sleep(_TICK_S)
