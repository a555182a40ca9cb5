"""`parley models export`: a checkpoint becomes Triton model folders; pulled first where it is not here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gateway.cli.common import FAILED, OK, USAGE, Fault, end_with_sigterm
from gateway.triton.exported.environment import ExportUnavailable, run_export
from gateway.triton.exported.families import FAMILIES
from gateway.triton.exported.options import check_options, help_text
from gateway.triton.exported.staging import check_name, check_repository

_MADE = "random:"


def configure_export(parser: argparse.ArgumentParser) -> None:
    parser.epilog = help_text()
    parser.add_argument("family", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a folder; owner/name of a Hugging Face hub, a name of the catalogue or a URL (pulled first); "
        "random:small, or random:config.json",
    )
    parser.add_argument("--out", required=True, metavar="REPOSITORY", help="model repository to write into")
    parser.add_argument(
        "--name", default="", help="of the model; made from family and checkpoint when left out"
    )
    parser.add_argument("--revision", default="", help="of the checkpoint at the hub")
    parser.add_argument("--license", default="", metavar="SPDX", help="in place of what its source says")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what this family alone knows: see below",
    )
    parser.add_argument(
        "--accept-license", "--accept-licence", action="append", default=[], metavar="ID",
        help="of what is pulled: accept this non-commercial licence without being asked",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="pull where no licence is named")
    parser.add_argument(
        "--catalogue", action="append", metavar="FILE", help="in place of those of the model repositories"
    )


async def run_export_verb(options: argparse.Namespace) -> int:
    """Exit code 1 when nothing was exported; the reason is on stderr then."""
    if options.family not in FAMILIES:
        raise Fault(f"unknown family {options.family}; known: {', '.join(FAMILIES)}", USAGE)
    # Before anything is pulled, or torch imported.
    _check(options.family, options.option)
    _check_place(options)
    end_with_sigterm()
    checkpoint, origin = _here(options) or await _pulled(options)
    arguments = [options.family, checkpoint, "--out", options.out, "--seed", str(options.seed), *origin]
    # What the person says comes last, and wins.
    for flag in ("name", "revision", "license"):
        if getattr(options, flag):
            arguments += [f"--{flag}", getattr(options, flag)]
    for pair in options.option:
        arguments += ["--option", pair]
    try:
        return FAILED if await run_export(arguments) else OK
    except ExportUnavailable as unavailable:
        raise Fault(str(unavailable)) from None


def _check(family: str, pairs: Sequence[str]) -> None:
    """Raises: Fault."""
    for pair in pairs:
        if "=" not in pair:
            raise Fault(f"--option {pair} is no KEY=VALUE", USAGE)
    try:
        check_options(family, dict(pair.split("=", 1) for pair in pairs))
    except ValueError as error:
        raise Fault(str(error), USAGE) from None


def _check_place(options: argparse.Namespace) -> None:
    """Raises: Fault."""
    try:
        check_name(options.name)
        check_repository(Path(options.out))
    except ValueError as error:
        raise Fault(str(error), USAGE) from None


def _check_family(folder: Path, family: str) -> None:
    """Raises: Fault where the checkpoint says that it is another's."""
    from gateway.triton.pulling.families import family_of

    its = family_of(folder) if (folder / "config.json").is_file() else ""
    if its and its != family:
        raise Fault(f"{folder} is of the family {its}, not {family}", USAGE)


def _here(options: argparse.Namespace) -> tuple[str, list[str]] | None:
    """The checkpoint as the exporter takes it, and what is known of its origin; None where it must be pulled."""
    if options.checkpoint.startswith(_MADE):
        config = options.checkpoint.removeprefix(_MADE)
        if config not in ("small", "stand-in") and not Path(config).is_file():
            raise Fault(
                f"{options.checkpoint}: after {_MADE} comes small, or the path of a config.json; there is no {config}",
                USAGE,
            )
        return options.checkpoint, []
    folder = Path(options.checkpoint).expanduser()
    if not folder.is_dir():
        if folder.is_file():
            raise Fault(f"{folder} is a file; name the folder that it is in", USAGE)
        if options.checkpoint.startswith(("/", "./", "../", "~")):
            raise Fault(f"there is no folder {folder}", USAGE)
        return None
    _check_family(folder, options.family)
    from gateway.cli.models.bring import export_arguments
    from gateway.triton.pulling.cache import record_of

    # A folder that was pulled knows where it is from.
    return str(folder), _without_license(export_arguments(record_of(folder) or {}, folder), options)


async def _pulled(options: argparse.Namespace) -> tuple[str, list[str]]:
    # What pulling needs is imported by those who pull.
    from gateway.cli.models.bring import bring_checkpoint, export_arguments, model_name
    from gateway.cli.models.catalogue import open_shelf
    from gateway.triton.pulling.errors import PullError
    from gateway.triton.pulling.families import heart_of
    from gateway.triton.pulling.sources import HubSource, wanted
    from gateway.triton.pulling.web import HUB

    try:
        endpoint = os.environ.get("HF_ENDPOINT") or HUB
        what = wanted(options.checkpoint, open_shelf(options.catalogue), endpoint=endpoint)
        if what.family and what.family != options.family:
            raise Fault(f"{what.name} is of the family {what.family}, not {options.family}", USAGE)
        if options.revision and isinstance(what.source, HubSource):
            what = replace(what, source=replace(what.source, revision=options.revision))
            options.revision = ""  # the record has the commit that it meant
        pulled = await bring_checkpoint(what, accepted=options.accept_license, yes=options.yes)
    except PullError as error:
        raise Fault(str(error)) from None
    if not what.family:
        _check_family(pulled.path, options.family)
    origin = export_arguments(pulled.record, pulled.path, what.parts)
    if what.name:  # as `parley models pull` calls it
        origin += ["--name", model_name(what, options.family, pulled.path)]
    for key, value in what.options.items():
        origin += ["--option", f"{key}={value}"]
    return str(heart_of(pulled.path, options.family)), _without_license(origin, options)


def _without_license(origin: list[str], options: argparse.Namespace) -> list[str]:
    """What the person chose as the family's own option is not overruled by the source's word."""
    if "--license" in origin and any(pair.startswith("license=") for pair in options.option):
        at = origin.index("--license")
        del origin[at : at + 2]
    return origin
