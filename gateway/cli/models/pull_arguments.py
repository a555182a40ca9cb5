"""The arguments of `parley models pull` and `catalogue`: what they need to run is imported when they do."""

from __future__ import annotations

import argparse

from gateway.triton.exported.families import FAMILIES
from gateway.triton.pulling.entries import FILE, OTHERS


def configure_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a name of the catalogue, owner/name[@revision] of a Hugging Face hub, an http(s) URL "
        "(with #sha256=… if you like), or a folder",
    )
    parser.add_argument(
        "--to", metavar="REPOSITORY", help="model repository; the first of the settings when left out"
    )
    parser.add_argument("--name", default="", help="of the model there")
    parser.add_argument(
        "--family",
        default="",
        choices=("", *FAMILIES, *OTHERS),
        metavar="FAMILY",
        help="where it cannot be told",
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only these files of a hub's repository",
    )
    parser.add_argument("--no-export", action="store_true", help="leave a checkpoint as it is")
    parser.add_argument(
        "--accept-license", "--accept-licence", action="append", default=[], metavar="ID",
        help="accept this non-commercial licence without being asked",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="go on where no licence is named")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_catalogue_option(parser)


def configure_catalogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    add_catalogue_option(parser)


def add_catalogue_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue",
        action="append",
        metavar="FILE",
        help=f"a catalogue file, in place of the {FILE} of the model repositories",
    )
