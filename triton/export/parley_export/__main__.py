"""`python -m parley_export FAMILY CHECKPOINT --out REPOSITORY`; people call it as `parley models export`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gateway.triton.exported.families import FAMILIES
from gateway.triton.exported.options import check_options, help_text
from gateway.triton.exported.staging import check_name, check_repository

PARAMETERS = ("graphs_by", "threads", "max_streams")
"""Options that become parameters of the front as they are."""


def main() -> int:
    options = _arguments()
    # Ended from outside, what is half-written is removed all the same.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    from parley_export.checkpoint import ExportError

    try:
        for family in options.family.split(","):
            export(
                family, options.checkpoint, options.out, name=options.name, called=options.called,
                revision=options.revision, license=options.license, seed=options.seed, chosen=dict(options.option or ()),
            )  # fmt: skip
    except ExportError as error:
        print(f"parley models export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"done in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def export(
    family: str,
    source: str,
    out: Path,
    *,
    name: str = "",
    called: str = "",
    revision: str = "",
    license: str = "",
    seed: int = 0,
    chosen: Mapping[str, str] | None = None,
) -> list[Path]:
    """The folders that were written. license: in place of what the family knows. Raises: ExportError."""
    from parley_export.checkpoint import ExportError, open_checkpoint
    from parley_export.write import write

    options = dict(chosen or {})
    try:
        check_options(family, options)
        check_name(name)
        check_repository(out)
    except ValueError as error:
        raise ExportError(str(error)) from None
    checkpoint = open_checkpoint(family, source, called=called, revision=revision, seed=seed)
    _say(f"{family} from {checkpoint.source}")
    made = importlib.import_module(f"parley_export.families.{family.replace('-', '_')}")
    parameters = {key: options.pop(key) for key in PARAMETERS if key in options}
    exported = made.export(checkpoint, options)
    exported.parameters |= parameters
    # What the family knows is of the checkpoints that its makers published: others have their own word.
    exported.license = license or options.get("license") or checkpoint.license or exported.license
    folders = write(exported, checkpoint, out, name=name, say=_say)
    for folder in folders:
        print(folder)
    return folders


def _say(text: str) -> None:
    print(f"[export] {text}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="parley models export", description=__doc__, epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("family", help=f"one of {', '.join(FAMILIES)}; several with commas between them")
    parser.add_argument("checkpoint", help="a folder, random:small, or random:config.json")
    parser.add_argument("--out", type=Path, required=True, help="model repository to write into")
    parser.add_argument(
        "--name", default="", help="of the model; made from family and checkpoint when left out"
    )
    parser.add_argument("--called", default="", help="what the folder is a copy of, for provenance.json")
    parser.add_argument("--revision", default="")
    parser.add_argument("--license", default="", help="SPDX, in place of what the checkpoint's family knows")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--option", action="append", type=_pair, metavar="KEY=VALUE", help="of the family")
    options = parser.parse_args()
    unknown = [one for one in options.family.split(",") if one not in FAMILIES]
    if unknown:
        parser.error(f"unknown family {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    return options


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
