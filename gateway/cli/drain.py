"""`parley drain`: let a part end its work before it is stopped."""

from __future__ import annotations

import argparse

from gateway.cli.common import Help
from gateway.cli.drain_process import configure_process
from gateway.cli.drain_triton import configure_triton


def configure(parser: argparse.ArgumentParser) -> None:
    configure_process(parser)
    parts = parser.add_subparsers(dest="part", metavar="PART")
    summary = "a Triton: no new work for it, and what it has is waited for"
    triton = parts.add_parser("triton", help=summary, description=summary, formatter_class=Help)
    configure_triton(triton)
