"""Small exported models for tests: random weights, made once for each state of the exporter, then kept.

They are made by `parley models export` itself, in its own environment. PARLEY_NO_EXPORT=1 (which
`scripts/test --no-export` sets) leaves out by choice what needs them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.triton.exported.environment import CHECKOUT, LOCK, SOURCES, cache_folder
from gateway.triton.exported.families import FAMILIES

DEADLINE_S = 900
"""Of one export with an environment to make; a small one takes seconds in one that is there."""
_EXPORTER = ["parley_export"] if find_spec("torch") else ["gateway.cli", "models", "export"]
_SHARED = ("gateway/triton/exported",)


def exported(family: str, *options: str, name: str = "", checkpoint: str = "random:small") -> Path:
    """A repository with the small model of this family, which nobody changes; copy it first to do so."""
    if os.environ.get("PARLEY_NO_EXPORT"):
        pytest.skip("exports are left out: --no-export")
    arguments = [family, checkpoint, *(f"--option={one}" for one in options)]
    if name:
        arguments += ["--name", name]
    place = cache_folder() / "exports" / _key(arguments)
    if not (place / "done").exists():
        _export(arguments, place)
    return place / "models"


def changeable(repository: Path, to: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(repository, to / "models"))


def _export(arguments: Sequence[str], place: Path) -> None:
    making = place.with_name(f".{place.name}.{os.getpid()}")
    command = [sys.executable, "-m", *_EXPORTER, *arguments, "--out", str(making / "models")]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if made.returncode:
            pytest.fail(f"{' '.join(command[2:])} ended with {made.returncode}: {made.stderr[-2000:]}")
        (making / "done").touch()
        if not (place / "done").exists():  # somebody else was quicker
            making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _key(arguments: Sequence[str]) -> str:
    """Of these arguments and everything that an export is made with."""
    digest = hashlib.sha256(LOCK.read_bytes())
    root = CHECKOUT
    folders = [SOURCES, *(root / folder for folder in _SHARED)]
    own = arguments[0].replace("-", "_")
    others = {family.replace("-", "_") for family in FAMILIES} - {own}
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        if path.parent.name == "families" and path.stem in others:
            continue
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{arguments[0]}-{hashlib.sha256((digest.hexdigest() + repr(list(arguments))).encode()).hexdigest()[:16]}"
