"""How a pull looks: a bar on a terminal, now and then a line elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gateway.triton.pulling.download import Watch
from gateway.triton.pulling.plan import megabytes

_STEPS = 10
"""Lines of a pull whose size is known."""
_EVERY = 100_000_000
"""Bytes between two lines where it is not."""


@contextmanager
def shown(name: str) -> Iterator[Watch]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield Lines(name, lambda line: print(line, file=sys.stderr, flush=True))
        return
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip
    bar = _Bar(progress, name)
    try:
        yield bar
    finally:
        progress.stop()


class Lines:
    """For logs: a tenth at a time."""

    def __init__(self, name: str, write: Callable[[str], None]) -> None:
        self._name, self._write = name, write
        self._size: int | None = None
        self._done = self._told = 0

    def say(self, text: str) -> None:
        self._write(f"{self._name}: {text}")

    def begin(self, size: int | None) -> None:
        self._size, self._done, self._told = size, 0, 0
        self._write(f"{self._name}: pulling {megabytes(size)}" if size else f"{self._name}: pulling")

    def advance(self, size: int) -> None:
        self._done += size
        step = self._done * _STEPS // self._size if self._size else self._done // _EVERY
        if step > self._told:
            self._told = step
            share = f" ({100 * self._done // self._size} %)" if self._size else ""
            self._write(f"{self._name}: {megabytes(self._done)}{share}")


class _Bar:
    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        self._progress.console.print(f"{escape(self._name)}: {escape(text)}")

    def begin(self, size: int | None) -> None:
        self._task = self._progress.add_task(f"pull {escape(self._name)}", total=size)
        self._progress.start()

    def advance(self, size: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, size)
