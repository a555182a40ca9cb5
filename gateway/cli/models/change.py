"""`parley models load` and `unload`: several models side by side; one that fails does not keep the others back."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from gateway.cli.common import FAILED, OK
from gateway.cli.models.connection import Connected, changing, connect, look
from gateway.cli.models.facts import Row, duration
from gateway.cli.models.progress import Shown, show
from gateway.triton.errors import TritonError
from gateway.triton.leases.client import Leases
from gateway.triton.leases.local import LocalLeases
from gateway.triton.manager.events import Event
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import InUse, ModelStatus, NotNow, Progress, State, Why
from gateway.triton.manager.warm_up import WarmUp

_UNLOADS_AT_A_TIME = 8
_UNLOAD_S = 30.0
_WAIT_S = 0.5
"""Before asking again, where a refusal does not say how long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    ok: bool
    text: str
    """One sentence without the name: "loaded in 0.9 s"."""
    seconds: float = 0.0


class Operator:
    """A manager that only does what it is told."""

    def __init__(self, to: Connected, leases: Leases, *, drain_s: float = 0.0) -> None:
        """drain_s: how long an unload waits for sessions to end."""
        settings = to.settings.models.model_copy(update={"drain_s": drain_s})
        self.load_s = settings.load_s
        self.manager = ModelManager(
            to.repository, leases, to.catalogue, settings,
            warm_up=WarmUp(to.channel), keeper=False, server=to.where, on_event=_unheard,
        )  # fmt: skip

    async def status(self, name: str) -> ModelStatus | None:
        return next((one for one in await self.manager.status() if one.info.name == name), None)


async def run_load(options: argparse.Namespace) -> int:
    async with connect(options) as to:
        rows = {row.name: row for row in (await look(to)).rows}
        async with _operator(to, options.names, rows) as operator:

            async def one(name: str, shown: Shown) -> str:
                return await _load(operator, name, rows.get(name), options.deadline, shown)

            return await _each(options, to.settings.models.max_loads, rows, one)


async def run_unload(options: argparse.Namespace) -> int:
    async with connect(options) as to:
        rows = {row.name: row for row in (await look(to)).rows}
        async with _operator(to, options.names, rows, drain_s=options.deadline or 0.0) as operator:

            async def one(name: str, shown: Shown) -> str:
                return await _unload(
                    operator, name, rows.get(name), options.deadline or _UNLOAD_S, shown, force=options.force
                )

            return await _each(options, _UNLOADS_AT_A_TIME, rows, one)


def _unheard(_: Event) -> None:
    """What came of it is told to the person who asked."""


@asynccontextmanager
async def _operator(
    to: Connected, names: Sequence[str], rows: dict[str, Row], *, drain_s: float = 0.0
) -> AsyncIterator[Operator]:
    if any(name in rows for name in names):
        async with changing(to) as leases, _started(Operator(to, leases, drain_s=drain_s)) as operator:
            yield operator
    else:  # nothing is there to be changed, and nothing is brought into Triton
        async with _started(Operator(to, LocalLeases(), drain_s=drain_s)) as operator:
            yield operator


@asynccontextmanager
async def _started(operator: Operator) -> AsyncIterator[Operator]:
    await operator.manager.start()
    try:
        yield operator
    finally:
        await operator.manager.close()


async def _each(
    options: argparse.Namespace,
    at_a_time: int,
    rows: dict[str, Row],
    change: Callable[[str, Shown], Awaitable[str]],
) -> int:
    turns = asyncio.Semaphore(at_a_time)
    clock = asyncio.get_running_loop().time
    names = list(dict.fromkeys(options.names))

    async def one(name: str, shown: Shown) -> Outcome:
        async with turns:
            begun = clock()
            if name in rows:
                shown.begin(rows[name].load_s if options.verb == "load" else None)
            try:
                outcome = Outcome(name, True, await change(name, shown), clock() - begun)
            except TritonError as error:
                outcome = Outcome(name, False, _bare(name, error), clock() - begun)
        shown.end(outcome.ok, outcome.text)
        return outcome

    with show(names, options.verb, quiet=options.json) as each:
        outcomes = await asyncio.gather(*(one(name, each[name]) for name in names))
    if options.json:
        told = [asdict(outcome) | {"seconds": round(outcome.seconds, 3)} for outcome in outcomes]
        print(json.dumps(told, indent=2))
    return OK if all(outcome.ok for outcome in outcomes) else FAILED


async def _load(
    operator: Operator, name: str, row: Row | None, deadline_s: float | None, shown: Shown
) -> str:
    """What was done. deadline_s: None until the load itself is given up, and its reason is known.

    Raises: TritonError.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()

    def on_progress(progress: Progress) -> None:
        if row is not None and row.state is State.LOADING and progress.state is State.LOADING:
            shown.say("somebody loads it already")

    await operator.manager.load(name, why=Why.OPERATOR, deadline_s=deadline_s, on_progress=on_progress)
    took = loop.time() - begun
    if row is None or not row.resident:
        return f"loaded in {duration(took)}"
    status = await operator.status(name)
    if status is None or status.version in row.versions:
        return "loaded already"
    serves = f"version {status.version} serves after {duration(took)}"
    left = await _without_old(
        operator,
        name,
        begun + (deadline_s or operator.load_s),
        lambda old: shown.say(f"{serves}; {old} goes on"),
    )
    return serves + (f"; {left} stays until its last session has ended" if left else "")


async def _without_old(operator: Operator, name: str, end: float, say: Callable[[str], None]) -> str:
    """The versions that still have sessions at the deadline, "version 1", or "" when the new one is alone."""
    loop = asyncio.get_running_loop()
    pause = 0.1
    while True:
        status = await operator.status(name)
        old = [one for one in status.versions if one != status.version] if status is not None else []
        if not old:
            return ""
        names = f"version {', '.join(old)}"
        say(names)
        if loop.time() + pause > end:
            return names
        await asyncio.sleep(pause)  # its last session ends without telling us
        pause = min(pause * 1.5, 2.0)


async def _unload(
    operator: Operator, name: str, row: Row | None, deadline_s: float, shown: Shown, *, force: bool
) -> str:
    """What was done. Raises: TritonError."""
    if row is not None and row.state is State.ABSENT:
        return "not loaded"
    loop = asyncio.get_running_loop()
    begun = loop.time()
    end = begun + deadline_s
    while True:
        try:
            await operator.manager.unload(name, force=force, deadline_s=max(end - loop.time(), 1.0))
            return f"unloaded in {duration(loop.time() - begun)}"
        except NotNow as error:  # somebody else changes it, or nobody knows yet who holds it
            pause = error.wait_s or _WAIT_S
            if loop.time() + pause > end:
                raise
            shown.say(_bare(name, error))
            await asyncio.sleep(pause)
        except InUse as error:
            advice = "" if error.wait_s else "; ask again when they have ended, or use --force"
            raise InUse(f"{error}{advice}", leases=error.leases, wait_s=error.wait_s) from None


def _bare(name: str, error: TritonError) -> str:
    """Without the model's name at its head: it stands before every line."""
    text = str(error)
    for head in (f"load {name}: ", f"unload {name}: ", f"{name}: ", f"{name} "):
        text = text.removeprefix(head)
    return text
