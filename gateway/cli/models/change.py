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
from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.leases.client import Change, Leases
from gateway.triton.leases.local import LocalLeases
from gateway.triton.manager.types import InUse, LoadFailed, NoSuchModel, NotNow, State, Why
from gateway.triton.manager.warm_up import WarmUp

_UNLOADS_AT_A_TIME = 8
_WAIT_S = 0.5
"""Before asking again, where a refusal does not say how long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    ok: bool
    text: str
    """One sentence without the name: "loaded in 0.9 s"."""
    seconds: float = 0.0


async def run_load(options: argparse.Namespace) -> int:
    async with connect(options) as to:
        rows = {row.name: row for row in (await look(to)).rows}
        deadline_s = options.deadline or to.settings.models.load_s
        async with _leases(to, options.names, rows) as leases:

            async def one(name: str, shown: Shown) -> str:
                return await _load(to, leases, name, rows.get(name), deadline_s, shown)

            return await _each(options, to.settings.models.max_loads, rows, one)


async def run_unload(options: argparse.Namespace) -> int:
    async with connect(options) as to:
        rows = {row.name: row for row in (await look(to)).rows}
        deadline_s = options.deadline or to.settings.models.drain_s
        async with _leases(to, options.names, rows) as leases:

            async def one(name: str, shown: Shown) -> str:
                return await _unload(to, leases, name, rows.get(name), deadline_s, shown, force=options.force)

            return await _each(options, _UNLOADS_AT_A_TIME, rows, one)


@asynccontextmanager
async def _leases(to: Connected, names: Sequence[str], rows: dict[str, Row]) -> AsyncIterator[Leases]:
    """Where none of the models exists there is nothing to change, and nothing is brought into Triton."""
    if any(name in rows for name in names):
        async with changing(to) as leases:
            yield leases
    else:
        yield LocalLeases()


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
                outcome = Outcome(name, False, str(error), clock() - begun)
        shown.end(outcome.ok, outcome.text)
        return outcome

    with show(names, options.verb, quiet=options.json) as each:
        outcomes = await asyncio.gather(*(one(name, each[name]) for name in names))
    if options.json:
        told = [asdict(outcome) | {"seconds": round(outcome.seconds, 3)} for outcome in outcomes]
        print(json.dumps(told, indent=2))
    return OK if all(outcome.ok for outcome in outcomes) else FAILED


async def _load(
    to: Connected, leases: Leases, name: str, row: Row | None, deadline_s: float, shown: Shown
) -> str:
    """What was done. Raises: TritonError."""
    if row is None:
        raise NoSuchModel(
            f"no such model on the Triton at {to.where}; `parley models list` shows those there are"
        )
    if row.state in (State.ABSENT, State.FAILED) and (problem := to.catalogue.problems().get(name)):
        raise LoadFailed(problem)
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    await _take(leases, name, Change.LOAD, end, shown, max_loads=to.settings.models.max_loads)
    begun = loop.time()
    reason = "the command that loaded it was interrupted"
    try:
        await to.repository.load(name, deadline_s=max(end - begun, 0.1))
        info = await to.repository.describe(name)
        await WarmUp(to.channel)(info, "", max(end - loop.time(), 1.0))
        reason = ""
    except TritonTimeout:
        reason = f"not loaded within {duration(deadline_s)}; it may still come, `parley models status {name}` tells"
        raise TritonTimeout(reason) from None
    except TritonError as error:
        reason = str(error).removeprefix(f"load {name}: ")
        await _forget(to, name)
        raise LoadFailed(reason) from None
    finally:
        took = loop.time() - begun
        why = "" if row.resident else Why.OPERATOR.value
        load_s = row.load_s or 0.0 if row.resident else took
        await leases.end(name, Change.LOAD, ok=not reason, why=why, reason=reason, load_s=load_s)
    if not row.resident:
        return f"loaded in {duration(took)}"
    index = await to.repository.index()
    versions = tuple(one.version for one in index if one.name == name and one.state == "READY")
    if set(versions) != set(row.versions):
        return f"version {', '.join(versions)} in place of {', '.join(row.versions)}, in {duration(took)}"
    return "loaded already"


async def _forget(to: Connected, name: str) -> None:
    """A failed load leaves its state in Triton until the model is unloaded."""
    try:
        await to.repository.unload(name, deadline_s=5.0)
    except TritonError:
        pass  # why it failed matters more


async def _unload(
    to: Connected, leases: Leases, name: str, row: Row | None, deadline_s: float, shown: Shown, *, force: bool
) -> str:
    """What was done. Raises: TritonError."""
    if row is None:
        raise NoSuchModel(
            f"no such model on the Triton at {to.where}; `parley models list` shows those there are"
        )
    if row.state in (State.ABSENT, State.FAILED):
        return "not loaded"
    least_s = to.settings.models.min_residency_s
    if not force and row.since_s is not None and row.since_s < least_s:
        left = least_s - row.since_s
        raise InUse(
            f"resident for {duration(row.since_s)} only, at least {duration(least_s)} is kept; "
            f"ask again in {duration(left)}, or use --force",
            wait_s=left,
        )
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    try:
        await _take(leases, name, Change.UNLOAD, end, shown, force=force)
    except InUse as error:
        raise InUse(f"{error}; ask again when they have ended, or use --force", leases=error.leases) from None
    begun = loop.time()
    reason = "the command that unloaded it was interrupted"
    try:
        await to.repository.unload(name, deadline_s=max(end - begun, 0.1))
        reason = ""
    except TritonError as error:
        reason = str(error).removeprefix(f"unload {name}: ")
        raise TritonError(reason) from None
    finally:
        await leases.end(name, Change.UNLOAD, ok=not reason, reason=reason)
    return f"unloaded in {duration(loop.time() - begun)}"


async def _take(
    leases: Leases,
    name: str,
    change: Change,
    end: float,
    shown: Shown,
    *,
    force: bool = False,
    max_loads: int = 0,
) -> None:
    """The right to change it, as soon as nobody else does. Raises: InUse; NotNow at the deadline; TritonError."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await leases.begin(name, change, force=force, max_loads=max_loads)
            return
        except NotNow as error:
            pause = error.wait_s or _WAIT_S
            if loop.time() + pause > end:
                raise
            shown.say(str(error).removeprefix(f"{name} "))
            await asyncio.sleep(pause)
