"""The licence is shown before anything is transferred; one that bars commercial use, or is not known, is asked for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from gateway.triton.pulling.errors import LicenceRefused
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.plan import megabytes
from gateway.triton.pulling.pull import Consent


def consent_of(*, accepted: Sequence[str], yes: bool, say: Callable[[str], None]) -> Consent:
    """accepted: ids given on the command line. yes: go on where no licence is named."""

    async def consent(name: str, licence: Licence, size: int | None) -> str:
        say(f"{name}: licence {licence}" + (f"; {megabytes(size)}" if size else ""))
        if any(licence.is_called(one) for one in accepted):
            return "by --accept-license"
        if licence.id and not licence.noncommercial:
            return "needs no consent"
        if not licence.id and yes:
            return "not named, by --yes"
        if licence.id:
            question, way = "Use it under that licence, not commercially?", f"--accept-license {licence.id}"
        else:
            question, way = "Go on without knowing the licence?", "--yes"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            why = "is for non-commercial use only" if licence.id else "has no licence that its source names"
            raise LicenceRefused(f"{name} {why}: pull it with {way} if you may use it")
        if await _answer(f"{question} [y/N] ") not in ("y", "yes"):
            raise LicenceRefused(f"{name} was not pulled: its licence was not accepted")
        return "on a terminal"

    return consent


async def _answer(question: str) -> str:
    """A line of the terminal's, which Ctrl-C ends like every other wait."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()
    print(question, end="", file=sys.stderr, flush=True)

    def on_line() -> None:
        if not typed.done():
            typed.set_result(sys.stdin.readline().strip().lower())

    loop.add_reader(sys.stdin.fileno(), on_line)
    try:
        return await typed
    finally:
        loop.remove_reader(sys.stdin.fileno())
