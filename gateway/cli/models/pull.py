"""`parley models pull`: a checkpoint or a model folder, brought here whole."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from gateway.cli.common import OK, Fault, end_with_sigterm, load_settings
from gateway.cli.models.bring import Brought, bring
from gateway.cli.models.catalogue import open_shelf
from gateway.cli.models.connection import repositories_of
from gateway.triton.catalogue.repositories import is_url
from gateway.triton.exported.families import FAMILIES
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.sources import wanted
from gateway.triton.pulling.web import HUB


async def run_pull_verb(options: argparse.Namespace) -> int:
    end_with_sigterm()
    shelf = open_shelf(options.catalogue)
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    try:
        what = wanted(options.source, shelf, endpoint=endpoint, files=tuple(options.file))
        brought = await bring(
            what,
            repository=repository_of(options.to),
            name=options.name,
            family=options.family,
            export=not options.no_export,
            accepted=options.accept_license,
            yes=options.yes,
        )
    except PullError as error:
        raise Fault(str(error)) from None
    if options.json:
        print(json.dumps({**asdict(brought), "path": str(brought.path)}, indent=2))
    else:
        print(_sentence(brought, exported=not options.no_export))
    return OK


def repository_of(named: str | None) -> Path:
    """--to, else the first repository of the settings that is a folder here. Raises: Fault."""
    if named and is_url(named):
        raise Fault(f"{named} is an object store: pull into a folder here, and copy that")
    options = argparse.Namespace(repository=[named] if named else None)
    places = [Path(one) for one in repositories_of(options, load_settings(), stack=True) if not is_url(one)]
    if not places:
        raise Fault("no model repository here is a folder: name one with --to")
    return places[0]


def _sentence(brought: Brought, *, exported: bool) -> str:
    if brought.models:
        return f"ready for `parley models load {' '.join(one for one in brought.models if not one.startswith('graph_'))}`"
    if brought.family in FAMILIES:
        return f"{brought.path}: `parley models export {brought.family} {brought.path} --out REPOSITORY` makes models of it"
    kind = f"of the family {brought.family}" if brought.family else "of no family that is known here"
    hint = "" if brought.family or not exported else "; name its family with --family"
    return f"{brought.path}: a checkpoint {kind}, no Triton model{hint}"
