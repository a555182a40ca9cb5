"""The manifest of a model repository: `SHA256SUMS` at its root, as coreutils' `sha256sum` writes and checks it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from gateway.triton.catalogue.folder import is_model_name
from gateway.triton.errors import TritonError

NAME = "SHA256SUMS"
MAX_BYTES = 16 << 20
"""Of a manifest: some 100,000 files."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_BLOCK = 1 << 20
_LEFT_OUT = ("__pycache__",)

Sums = dict[str, str]
"""SHA-256 in hex by path below the model's folder."""


class SyncError(TritonError):
    """`str()` is a sentence for whoever started it."""


def parse_manifest(text: str, where: str) -> dict[str, Sums]:
    """Sums by model. Raises: SyncError, also for a path that would leave the repository."""
    models: dict[str, Sums] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        path = PurePosixPath(found[2].removeprefix("./")) if found else PurePosixPath()
        parts = path.parts
        inside = len(parts) > 1 and not path.is_absolute() and not {"..", "."} & set(parts)
        if found is None or not inside or not is_model_name(parts[0]) or "\\" in found[2]:
            raise SyncError(
                f"line {number} of {where} is no sum of a file in a model's folder: write it with `parley models manifest`"
            )
        models.setdefault(parts[0], {})["/".join(parts[1:])] = found[1]
    if not models:
        raise SyncError(f"{where} lists no model: write it with `parley models manifest`")
    return models


def write_manifest(repository: Path, models: Mapping[str, Sums]) -> None:
    """In one step: a reader finds the old one or the new one. Raises: OSError."""
    lines = [f"{its[path]}  {name}/{path}\n" for name, its in sorted(models.items()) for path in sorted(its)]
    beside = repository / f".{NAME}.new"
    beside.write_text("".join(lines), "utf-8")
    os.replace(beside, repository / NAME)


def sums_of(repository: Path) -> dict[str, Sums]:
    """Of every model folder there is, links followed. Blocks. Raises: OSError, SyncError."""
    found: dict[str, Sums] = {}
    for folder in sorted(repository.iterdir()):
        if folder.is_dir() and is_model_name(folder.name) and not folder.name.startswith("."):
            its = {inner: sha256(folder / inner) for inner in files_of(folder)}
            if its:
                found[folder.name] = its
    if not found:
        raise SyncError(f"{repository} holds no model folder: name a model repository")
    return found


def files_of(folder: Path) -> Iterator[str]:
    """Paths below it, those that Python leaves behind apart; sorted."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(one for one in folders if one not in _LEFT_OUT)
        for name in sorted(names):
            yield (Path(root) / name).relative_to(folder).as_posix()


def sha256(path: Path) -> str:
    """In hex. Blocks. Raises: OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
