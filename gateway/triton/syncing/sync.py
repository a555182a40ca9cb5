"""One repository made like another, model by model.

A model appears as a whole and checked, in one step, or stays as it was; whatever ends the process, the repository can be
used and the next run goes on where this one was. Beside the models lie `.syncing-MODEL` (what has come so far) and, on
file systems that cannot exchange two names in one step, for a moment `.replaced-MODEL`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.triton.syncing.exchange import exchange
from gateway.triton.syncing.manifest import Sums, SyncError, files_of, parse_manifest, sha256, write_manifest
from gateway.triton.syncing.source import Source

COMING, REPLACED = ".syncing-", ".replaced-"
_LOCK = ".sync.lock"
_AT_A_TIME = 4
_PART = ".part"


@dataclass(slots=True)
class Synced:
    same: list[str] = field(default_factory=list)
    brought: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    read_bytes: int = 0
    """From the source."""


def sync(
    source: Source,
    where: str,
    repository: Path,
    *,
    only: Sequence[str] = (),
    prune: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Synced:
    """Blocks. where: the source, for people. only: these models; all when empty. prune: remove models that it lacks.

    Raises: SyncError; what was done by then stays.
    """
    wanted = parse_manifest(source.manifest(), f"{where}/SHA256SUMS")
    if missing := sorted(set(only) - wanted.keys()):
        raise SyncError(f"{where} has no model {missing[0]}: there is {', '.join(sorted(wanted))}")
    if only:
        wanted = {name: wanted[name] for name in only}
    result = Synced()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _alone(repository, say):
            _recover(repository)
            # An exported model's graphs, and what an ensemble is made of, before what uses them.
            for name in sorted(wanted, key=lambda one: (not one.startswith("graph_"), one)):
                if _is_like(repository / name, wanted[name]):
                    _give_version(repository / name, wanted[name])
                    result.same.append(name)
                    continue
                say(f"{name}: {len(wanted[name])} files")
                result.read_bytes += _bring(source, repository, name, wanted[name])
                result.brought.append(name)
            if prune and not only:
                result.removed = _prune(repository, wanted)
            write_manifest(repository, {**_kept(repository, wanted), **wanted})
    except OSError as error:
        raise SyncError(f"cannot write to {repository}: {(error.strerror or str(error)).lower()}") from None
    return result


@contextmanager
def _alone(repository: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The kernel takes the lock back from a process that dies."""
    with (repository / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process syncs {repository}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recover(repository: Path) -> None:
    """A run before ended between two renames."""
    for replaced in repository.glob(f"{REPLACED}*"):
        model = repository / replaced.name.removeprefix(REPLACED)
        if model.exists():
            shutil.rmtree(replaced)
        else:
            os.rename(replaced, model)


def _is_like(folder: Path, sums: Sums) -> bool:
    if not folder.is_dir() or set(files_of(folder)) != sums.keys():
        return False
    return all(sha256(folder / path) == its for path, its in sums.items())


def _bring(source: Source, repository: Path, name: str, sums: Sums) -> int:
    """Bytes read. Raises: SyncError, OSError."""
    work, model = repository / f"{COMING}{name}", repository / name
    work.mkdir(exist_ok=True)
    for stray in [path for path in files_of(work) if path.removesuffix(_PART) not in sums]:
        (work / stray).unlink()
    with ThreadPoolExecutor(_AT_A_TIME, "parley-sync") as pool:
        coming = [
            pool.submit(_bring_file, source, f"{name}/{path}", work / path, model / path, its)
            for path, its in sums.items()
        ]
        try:
            read_bytes = sum(one.result() for one in coming)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _give_version(work, sums)
    _put(work, model)
    return read_bytes


def _give_version(folder: Path, sums: Sums) -> None:
    """An ensemble has no files in its version; Triton wants the folder all the same, and no manifest lists folders."""
    if not any(path.partition("/")[0].isdigit() for path in sums):
        (folder / "1").mkdir(exist_ok=True)


def _bring_file(source: Source, path: str, target: Path, old: Path, wanted: str) -> int:
    if target.is_file() and sha256(target) == wanted:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    if old.is_file() and sha256(old) == wanted:
        shutil.copyfile(old, part)
        os.replace(part, target)
        return 0
    read = 0
    for first in (True, False):
        digest, start = hashlib.sha256(), 0
        if first and part.is_file():  # what a run before had read of it
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    start += len(block)
        resumed = start > 0
        with part.open("ab" if resumed else "wb") as file:
            for block in source.read(path, start):
                digest.update(block)
                file.write(block)
                read += len(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() == wanted:
            os.replace(part, target)
            return read
        part.unlink()
        if not resumed:  # the beginning may have been of another version
            break
    raise SyncError(
        f"{path} is not what the manifest says (SHA-256 {digest.hexdigest()[:12]}…, not {wanted[:12]}…): "
        "it was changed or damaged; write the manifest again if it was changed"
    )


def _put(work: Path, model: Path) -> None:
    if model.is_symlink() or model.is_file():
        model.unlink()
    if not model.exists():
        os.rename(work, model)
    elif exchange(work, model):
        shutil.rmtree(work)
    else:
        replaced = model.with_name(f"{REPLACED}{model.name}")
        os.rename(model, replaced)
        os.rename(work, model)
        shutil.rmtree(replaced)
    folder = os.open(model.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prune(repository: Path, wanted: dict[str, Sums]) -> list[str]:
    removed = []
    for folder in sorted(repository.iterdir()):
        coming = folder.name.startswith(COMING)
        if not folder.is_dir() or folder.name in wanted or (folder.name.startswith(".") and not coming):
            continue
        aside = folder if coming else repository / f"{COMING}{folder.name}"
        if not coming:
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)  # a model is there as a whole, or not
            removed.append(folder.name)
        shutil.rmtree(aside)
    return removed


def _kept(repository: Path, wanted: dict[str, Sums]) -> dict[str, Sums]:
    """What the last manifest here says of models that are there still and were not looked at."""
    try:
        known = parse_manifest((repository / "SHA256SUMS").read_text("utf-8"), str(repository))
    except (OSError, SyncError, UnicodeDecodeError):
        return {}
    return {name: its for name, its in known.items() if name not in wanted and (repository / name).is_dir()}
