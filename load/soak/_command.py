"""The command line of `scripts/soak`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
import shlex
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import load.soak
from bench.machine import describe
from gateway.cli.common import FAILED, INTERRUPTED, OK, USAGE, complain
from load.run.child import Failed
from load.run.options import cores, masked
from load.run.soaking import Outcome, Soak, markdown, write
from load.run.stage import can_pin


def names() -> dict[str, ModuleType]:
    """Every soak there is."""
    found = {}
    for entry in pkgutil.iter_modules(load.soak.__path__):
        if not entry.name.startswith("_"):
            found[entry.name.replace("_", "-")] = importlib.import_module(f"load.soak.{entry.name}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    known = names()
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Repeats something until a leak would show.\n\n"
        + "\n".join(f"  {name:<12}{module.ABOUT}" for name, module in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(known), metavar="NAME", help="one of the above")
    parser.add_argument("--short", action="store_true", help="a few: shows that it works")
    parser.add_argument(
        "--count", type=int, default=0, metavar="N", help="how often, instead of its own number"
    )
    parser.add_argument("--at-once", type=int, default=0, metavar="N", help="how many at a time, likewise")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results and logs; default: a new folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of the gateway"
    )
    parser.add_argument("--gateway-core", default="0", metavar="CORES")
    parser.add_argument("--callers-core", default="1", metavar="CORES")
    options = parser.parse_args(arguments)
    try:
        gateway_cores, other_cores = cores(options.gateway_core), cores(options.callers_core)
    except ValueError:
        complain("cores are numbers: --gateway-core 0,2")
        return USAGE
    if not can_pin(gateway_cores, other_cores):
        gateway_cores, other_cores = set(), set()
    out = options.out or Path(tempfile.mkdtemp(prefix=f"parley-soak-{options.name}-"))
    out.mkdir(parents=True, exist_ok=True)
    soak = Soak(
        options.short,
        out.resolve(),
        frozenset(gateway_cores),
        frozenset(other_cores),
        tuple(options.set),
        options.count,
        options.at_once,
    )
    words = ["scripts/soak", options.name, *(["--short"] if options.short else [])]
    words += ["--count", str(options.count)] if options.count else []
    words += ["--at-once", str(options.at_once)] if options.at_once else []
    words += [word for pair in options.set for word in ("--set", masked(pair))]
    machine = describe(shlex.join(words))
    try:
        outcome = asyncio.run(_run(known[options.name], soak))
    except Failed as error:
        complain(str(error))
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    write(outcome, machine, out, options.name)
    print(f"\n{markdown(outcome, machine)}\nwrote {out}/{options.name}.md and .json")
    return OK if outcome.ok else FAILED


async def _run(module: ModuleType, soak: Soak) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    found: Outcome = await module.run(soak)
    return found
