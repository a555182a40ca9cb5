"""Models that the exporter makes, kept: made once for each state of the exporter, in its own environment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gateway.triton.exported.environment import CHECKOUT, LOCK, SOURCES, cache_folder

DEADLINE_S = 900
"""Of one export with an environment to make; a small one takes seconds in one that is there."""
UNUSED_S = 3 * 86_400.0
"""Exports that nobody has used for so long are removed when another of their family is made."""
_EXPORTER = ["parley_export"] if find_spec("torch") else ["gateway.cli", "models", "export"]
_SHARED = ("gateway/triton/exported",)
_RANDOM = "random:"


class ExportFailed(Exception):
    """`str()` says which command, and what it said."""


@dataclass(frozen=True, slots=True)
class Kept:
    models: Path
    """A repository with the model alone, which nobody changes."""
    cpu_s: float
    """That making it took, by all processes that did."""
    wall_s: float


def kept(
    family: str,
    checkpoint: str = "random:small",
    *,
    options: Sequence[str] = (),
    name: str = "",
    folder: str = "exports",
    alone: bool = False,
) -> Kept:
    """Made when it is not there. folder: in the cache; alone: older ones of this family there are removed.

    Raises: ExportFailed.
    """
    arguments = [family, checkpoint, *(f"--option={one}" for one in options)]
    if name:
        arguments += ["--name", name]
    place = cache_folder() / folder / f"{family}-{_key(arguments)}"
    if not (place / "done").exists():
        _export(arguments, place)
        _remove_others(family, place, all_of_them=alone)
    else:
        (place / "done").touch()  # in use
    told = (place / "done").read_text("utf-8")
    took = json.loads(told) if told else {"cpu_s": float("nan"), "wall_s": float("nan")}
    return Kept(place / "models", took["cpu_s"], took["wall_s"])


def _export(arguments: Sequence[str], place: Path) -> None:
    making = place.with_name(f".{place.name}.{os.getpid()}")
    command = [sys.executable, "-m", *_EXPORTER, *arguments, "--out", str(making / "models")]
    began, before = time.monotonic(), _children_s()
    try:
        made = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        if made.returncode:
            raise ExportFailed(f"{' '.join(command[2:])} ended with {made.returncode}: {made.stderr[-2000:]}")
        took = {"cpu_s": _children_s() - before, "wall_s": time.monotonic() - began}
        (making / "done").write_text(json.dumps(took), "utf-8")
        if not (place / "done").exists():  # somebody else was quicker
            making.rename(place)
    except subprocess.TimeoutExpired:
        raise ExportFailed(f"{' '.join(command[2:])} was not done after {DEADLINE_S} s") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _remove_others(family: str, place: Path, *, all_of_them: bool) -> None:
    """Of this family: all, or those that nobody has used for days."""
    for other in place.parent.glob(f"{family}-*"):
        done = other / "done"
        unused = not done.exists() or time.time() - done.stat().st_mtime > UNUSED_S
        if other != place and len(other.name) == len(place.name) and (all_of_them or unused):
            shutil.rmtree(other, ignore_errors=True)


def _key(arguments: Sequence[str]) -> str:
    """Of these arguments, the configuration that they name and everything that an export is made with."""
    digest = hashlib.sha256(LOCK.read_bytes())
    package = SOURCES / "parley_export"
    own = package / "families" / f"{arguments[0].replace('-', '_')}.py"
    sources = _imported([package / "__main__.py", package / "write.py", own], package)
    shared = [path for folder in _SHARED for path in (CHECKOUT / folder).glob("*.py")]
    data = [path for path in package.rglob("*") if path.suffix in (".json", ".npz")]
    for path in sorted({*sources, *shared, *data}):
        digest.update(str(path.relative_to(CHECKOUT)).encode() + b"\0" + path.read_bytes())
    told = list(arguments)
    config = Path(arguments[1].removeprefix(_RANDOM))
    if arguments[1].startswith(_RANDOM) and config.is_file():
        told[1] = config.name
        digest.update(config.read_bytes())
    if not arguments[1].startswith(_RANDOM):  # the catalogue says what the name means
        digest.update((CHECKOUT / "model_repository" / "catalogue.yaml").read_bytes())
    return hashlib.sha256((digest.hexdigest() + repr(told)).encode()).hexdigest()[:16]


def _imported(first: Sequence[Path], package: Path) -> set[Path]:
    """These files and whatever of the package, and of Parley's models, they import, directly or not."""
    found: set[Path] = set()
    waiting = list(first)
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        text = path.read_text("utf-8")
        names = re.findall(r"parley_export\.([\w.]+)", text)
        for several in re.findall(r"from parley_export(?:\.families)? import ([\w, ]+)", text):
            names += [one.strip() for one in several.split(",")]
            names += [f"families.{one.strip()}" for one in several.split(",")]
        waiting += [package / f"{name.replace('.', '/')}.py" for name in names]
        ours = re.findall(r"from (gateway\.triton\.(?:models|exported)[\w.]*) import", text)
        waiting += [CHECKOUT / f"{name.replace('.', '/')}.py" for name in ours]
    return found
