"""Small exported models for tests: random weights, made once for each state of the exporter, then kept.

They are made by `parley models export` itself, in its own environment. PARLEY_NO_EXPORT=1 (which
`scripts/test --no-export` sets) leaves out by choice what needs them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench.exports import ExportFailed, kept


def exported(family: str, *options: str, name: str = "", checkpoint: str = "random:small") -> Path:
    """A repository with the small model of this family, which nobody changes; copy it first to do so."""
    skip_without_exports()
    try:
        return kept(family, checkpoint, options=options, name=name).models
    except ExportFailed as failed:
        pytest.fail(str(failed))


def skip_without_exports() -> None:
    if os.environ.get("PARLEY_NO_EXPORT"):
        pytest.skip("exports are left out: --no-export")


def changeable(repository: Path, to: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(repository, to / "models"))
