"""`parley models logs`: what the running stack's Triton, and its models, wrote."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
from pathlib import Path

from gateway.cli import endpoints
from gateway.cli.common import FAILED, OK, USAGE, Fault, complain, load_settings, stop_event
from gateway.cli.models.connection import is_stack, where_of
from gateway.triton.channel import open_channel
from gateway.triton.repository import Repository
from gateway.triton.server import default_log_dir

_HEAD = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
"""How Triton begins a record; what follows without it (tables, Python stacks) belongs to it."""
_LIVE_S = 1.0
_TAIL_BYTES = 1 << 20
"""Of a log that is looked through for the last lines."""


async def run_logs(options: argparse.Namespace) -> int:
    path = await _path(options)
    lines = await asyncio.to_thread(last_lines, path, options.model, options.lines)
    for line in lines:
        print(line)
    if not options.follow:
        if not lines:
            raise Fault(f"{path} has no line about {options.model}" if options.model else f"{path} is empty")
        return OK
    return await _follow(path, options.model)


async def _path(options: argparse.Namespace) -> Path:
    """Raises Fault where the log is not ours to read."""
    settings = load_settings()
    where = where_of(options, settings)
    named = endpoints.find("triton_log", default="")
    elsewhere = options.triton is not None or "uri" in settings.triton.model_fields_set
    if is_stack(where) and named:
        path = Path(named)
    elif not elsewhere and not await _answers(where):
        path = (settings.triton.log_dir or default_log_dir()) / "triton.log"
        complain(f"no stack runs here: this is what the last one wrote, {path}")
    else:
        raise Fault(
            f"the Triton at {where} was not started by `parley up` on this machine: its log is on its own stderr "
            f"(`docker logs`, `kubectl logs`, `journalctl`)"
        )
    if not path.is_file():
        raise Fault(f"there is no log at {path}; `parley up` starts a Triton that writes one")
    return path


async def _answers(where: str) -> bool:
    channel = open_channel(where)
    try:
        return await Repository(channel).is_live(deadline_s=_LIVE_S)
    finally:
        await channel.close()


def last_lines(path: Path, model: str, count: int) -> list[str]:
    """The last `count` lines (0: all that are looked through) about a model, or about anything. Blocks."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    if size > _TAIL_BYTES:
        text = text.partition("\n")[2]  # the first one may be cut
    about = About(model)
    lines = [line for line in text.splitlines() if about.wants(line)]
    return lines[-count:] if count else lines


class About:
    """Which lines of a log are about one model: those that name it, and what belongs to them."""

    def __init__(self, model: str) -> None:
        """model: "" wants every line."""
        # Its processes are called MODEL_0_0, and count as the model.
        self._name = re.compile(rf"(?<!\w){re.escape(model)}(_\d+_\d+)?(?!\w)") if model else None
        self._inside = False

    def wants(self, line: str) -> bool:
        """Asked once for each line, in order."""
        if self._name is None:
            return True
        named = self._name.search(line) is not None
        if _HEAD.match(line):
            self._inside = named
        return named or self._inside


async def _follow(path: Path, model: str) -> int:
    """Print new lines until a signal. `tail` wakes up by inotify, and finds the next file after a rotation."""
    tail = shutil.which("tail")
    if tail is None:
        raise Fault("following a log needs the `tail` command", USAGE)
    about, stopping = About(model), stop_event()
    process = await asyncio.create_subprocess_exec(
        tail, "-n", "0", "-F", str(path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    printing = asyncio.create_task(_print(process.stdout, about))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({printing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return OK if stopping.is_set() else FAILED
    finally:
        stopped.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        printing.cancel()
        await asyncio.gather(printing, stopped, return_exceptions=True)


async def _print(lines: asyncio.StreamReader, about: About) -> None:
    while True:
        try:
            raw = await lines.readline()
        except ValueError:
            continue  # longer than any line should be; the reader has dropped it
        if not raw:
            return
        line = raw.decode("utf-8", "replace").rstrip("\n")
        if about.wants(line):
            print(line, flush=True)
