"""`parley models export`: a checkpoint becomes Triton model folders."""

from __future__ import annotations

import argparse

from gateway.cli.common import FAILED, OK, Fault
from gateway.triton.exported.environment import ExportUnavailable, run_export
from gateway.triton.exported.families import FAMILIES


def configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a folder, a Hugging Face id (pulled first), random:small, or random:config.json",
    )
    parser.add_argument("--out", required=True, metavar="REPOSITORY", help="model repository to write into")
    parser.add_argument(
        "--name", default="", help="of the model; made from family and checkpoint when left out"
    )
    parser.add_argument("--revision", default="", help="of the checkpoint at the hub")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="what this family alone knows"
    )


async def run_export_verb(options: argparse.Namespace) -> int:
    """Exit code 1 when nothing was exported; the reason is on stderr then."""
    if options.family not in FAMILIES:
        raise Fault(f"unknown family {options.family}; known: {', '.join(FAMILIES)}", 2)
    arguments = [options.family, options.checkpoint, "--out", options.out, "--seed", str(options.seed)]
    for flag in ("name", "revision"):
        if getattr(options, flag):
            arguments += [f"--{flag}", getattr(options, flag)]
    for pair in options.option:
        arguments += ["--option", pair]
    try:
        return FAILED if await run_export(arguments) else OK
    except ExportUnavailable as unavailable:
        raise Fault(str(unavailable)) from None
