"""`scripts/bench`: measures the stack on this machine and prints what it found beside the goals."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import accept_part, export_part, first_chunk_part, guard, slices_part, speech, speed, tls_part
from bench.machine import describe
from bench.parts import OWN_STACK, PARTS, Bench
from bench.report import Part, as_json, machine_text, part_text
from bench.stack import Up
from gateway.app import run_loop
from gateway.cli.client import CallFailed
from gateway.cli.common import FAILED, INTERRUPTED, OK, Fault, complain
from gateway.speak.tts import TtsError

_EPILOG = """\
examples:
  scripts/bench all --json results.json       everything, about 40 minutes
  scripts/bench all --quick                   a short form of everything, about a minute and a half
  scripts/bench latency bargein               some parts
  scripts/bench slices                        what each part of the gateway costs, cumulatively; 5 minutes
  scripts/bench accept                        new sessions a second; a minute
  scripts/bench first-chunk                   a voice's first chunk under load; five minutes
  scripts/bench export                        exported models: torch, ONNX Runtime, Triton; 10 minutes, exports as long again
  scripts/bench export --families vits,snac   some of them; what the same code measured before is not measured again
  scripts/bench speed                         what one core carries, beside the goals; about half an hour
  scripts/bench --quick                       the guard: has a session become dearer? exit 1 above +25 %

The stack is started as `parley up` starts it, on free ports, and stopped at the end. Keep the machine
otherwise quiet: whatever else runs on it is in the figures.
"""
ALONE: dict[str, Callable[[bool], Part]] = {
    "speed": lambda quick: speed.main(),
    "slices": lambda quick: slices_part.main(quick=quick),
    "accept": lambda quick: accept_part.main(quick=quick),
    "first-chunk": lambda quick: first_chunk_part.main(quick=quick),
    "tls": lambda quick: tls_part.main(quick=quick),
    "export": lambda quick: export_part.main(quick=quick),
}
"""Parts that start everything themselves, take long, and are in no `all`."""
_LONGEST_S = {True: 120.0, False: 3_000.0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "part",
        nargs="*",
        metavar="PART",
        help=f"all, {', '.join(PARTS)}; by itself: {', '.join(ALONE)}; none, with --quick: the guard",
    )
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it works, not how well")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything, raw samples too, as JSON"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--keep", action="store_true", help="the guard's figures become the committed ones")
    parser.add_argument(
        "--families", type=_names, default=(), metavar="FAMILY,…", help="of export: these alone"
    )
    parser.add_argument("--again", action="store_true", help="of export: also what was measured before")
    options = parser.parse_args(arguments)
    alone = ALONE | {
        "export": lambda quick: export_part.main(options.families, quick=quick, again=options.again)
    }
    if unknown := [name for name in options.part if name not in ("all", *PARTS, *ALONE)]:
        parser.error(f"there is no part {unknown[0]}: choose of all, {', '.join((*PARTS, *ALONE))}")
    if not options.part:
        if not options.quick:
            parser.error("name a part, or all; --quick alone compares with the committed figures")
        return guard.main(keep=options.keep)
    chosen = list(dict.fromkeys(options.part))
    names = list(PARTS) if "all" in chosen else [name for name in chosen if name in PARTS]
    machine = describe(_command(options))
    print(machine_text(machine), flush=True)
    parts: dict[str, Part] = {}
    code = OK
    try:
        if names:
            run_loop(_run(names, parts, quick=options.quick))
        for name in chosen:
            if name in alone:
                began = time.monotonic()
                parts[name] = alone[name](options.quick)
                parts[name].seconds = time.monotonic() - began
                print(part_text(parts[name]), flush=True)
                if parts[name].failed:
                    complain(f"not measured: {'; '.join(parts[name].failed)}")
                    code = FAILED
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        complain(f"not measured: {error}")
        code = FAILED
    except (Fault, CallFailed, TtsError) as error:
        complain(str(error))
        code = FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    found = [parts[name] for name in (*PARTS, *ALONE) if name in parts]
    if options.json is not None:
        options.json.write_text(as_json(machine, found))
    if options.markdown is not None:
        options.markdown.write_text(document(machine, found))
    return code


def _command(options: argparse.Namespace) -> str:
    """As it can be typed anywhere: files by their names."""
    words = ["scripts/bench", *options.part, *(["--quick"] if options.quick else [])]
    if options.families:
        words.append(f"--families={','.join(options.families)}")
    for name in ("json", "markdown"):
        if (path := getattr(options, name)) is not None:
            words += [f"--{name}", path.name]
    return shlex.join(words)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


async def _run(names: Sequence[str], found: dict[str, Part], *, quick: bool) -> None:
    """Fills `found`. Raises Fault at the end when a part failed, or at once when the time is over."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        async with asyncio.timeout(_LONGEST_S[quick]):
            failed = await _measure(names, found, quick=quick)
    except TimeoutError:
        raise Fault(f"not done after {_LONGEST_S[quick]:.0f} s; is the machine busy?") from None
    if failed:
        raise Fault(f"not measured: {'; '.join(failed)}")


async def _measure(names: Sequence[str], found: dict[str, Part], *, quick: bool) -> list[str]:
    """What failed, with the reason."""
    failed: list[str] = []
    shared = [name for name in names if name not in OWN_STACK]
    own = [name for name in names if name in OWN_STACK]
    clips = await asyncio.to_thread(speech.recordings)
    if shared or not clips:
        async with Up() as up:
            clips, about = await speech.speech(up.endpoints["triton_grpc"])
            for name in shared:
                await _one(name, Bench(clips, about, quick, up), found, failed)
    for name in own:
        await _one(name, Bench(clips, "", quick, None), found, failed)
    return failed


async def _one(name: str, bench: Bench, found: dict[str, Part], failed: list[str]) -> None:
    begin = time.monotonic()
    try:
        part = found[name] = await PARTS[name](bench)
    except (Fault, CallFailed, TtsError, OSError) as error:
        failed.append(f"{name} ({error})")
        return
    part.seconds = time.monotonic() - begin
    print(part_text(part), flush=True)
    print(f"({name} took {part.seconds:.0f} s)\n", file=sys.stderr, flush=True)


_READING = """\
Everything here was measured on one machine, which ran the whole stack and the clients as well: Triton with its CPU
models, the Riva front, the stand-in LLM, the gateway, and the program that measures. Nothing was measured on a GPU, over
a network, or with a real language model.

Percentiles are samples, never values in between, and are taken over all samples: what did not come counts as
infinitely late ("never"), and `failed` says how often that was."""


def document(machine: dict[str, Any], parts: Sequence[Part]) -> str:
    """BENCHMARKS.md."""
    return "\n".join(["# Benchmarks", "", _READING, "", machine_text(machine), *map(part_text, parts)])


if __name__ == "__main__":
    sys.exit(main())
