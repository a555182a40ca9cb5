"""`python -m load.emulators`: prints one JSON line with its addresses, and serves until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from collections.abc import Sequence

import uvloop

from load.emulators.app import ANY, Emulators
from load.emulators.distributions import BadProfile
from load.emulators.profile import Profile, assignments, read_profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for orders that cannot be carried out."""
    parser = argparse.ArgumentParser(prog="python -m load.emulators", description=__doc__)
    for part, what in (
        ("asr", "Riva speech recognition"),
        ("llm", "OpenAI chat"),
        ("triton", "the voice"),
        ("control", "statistics and faults"),
    ):
        parser.add_argument(f"--{part}", default=ANY, metavar="HOST:PORT", help=f"{what}; port 0 takes any")
    parser.add_argument("--profile", metavar="FILE", help="a YAML or JSON file, or the name of one of ours")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as llm.first_token_ms=126"
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    try:
        profile = read_profile(chosen.profile) if chosen.profile else Profile()
        profile = profile.changed(assignments(chosen.set))
        uvloop.run(_serve(chosen, profile))
    except (BadProfile, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _serve(chosen: argparse.Namespace, profile: Profile) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    running = Emulators(
        profile,
        seed=chosen.seed,
        asr=chosen.asr,
        llm=chosen.llm,
        triton=chosen.triton,
        control=chosen.control,
    )
    addresses = await running.open()
    try:
        print(json.dumps(addresses.as_dict(), separators=(",", ":")), flush=True)
        gc.freeze()
        await told.wait()
    finally:
        await running.close()


if __name__ == "__main__":
    sys.exit(main())
