"""Model folders appear in a repository whole: written beside their place, moved there, cleared away where that died.

Whoever writes holds a lock on its folder, which the kernel takes back with the process: a folder that nobody holds is a
leftover.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".held"
JOURNAL = ".moved"
OLD = ".old"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_YOUNG_S = 3_600.0
"""A folder without a lock is one that another version made, or whose maker is just about to take it."""


def check_name(name: str) -> None:
    """Of a model; "" where it has none yet. Raises: ValueError."""
    if name and not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a model: letters, digits, _ . and - without a folder, at most 128 of them"
        )


def check_repository(repository: Path) -> None:
    """That folders can be written there, as far as can be told before. Raises: ValueError."""
    there = next(one for one in (repository, *repository.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file, no model repository: name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"cannot write into {repository}: {there} is not writable for this user; name another folder"
        )


@contextmanager
def staging(repository: Path, prefix: str) -> Iterator[Path]:
    """A hidden folder in `repository` for what is not whole yet; it is gone in the end. Leftovers of processes that
    are gone are removed first, and what one of them had moved by half is moved back. Raises: OSError."""
    clear_leftovers(repository, prefix)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=repository))
    held = -1
    try:
        held = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if held >= 0:
            os.close(held)


def put(work: Path, repository: Path, names: Sequence[str]) -> None:
    """Moves these folders of `work` to their places, the last one last: who finds it finds the others.

    Where that fails, what was there before is there again; where the process dies in the middle, it is as soon as
    the next one begins to write into the same repository. Raises: OSError.
    """
    (work / JOURNAL).write_text(json.dumps(list(names)), "utf-8")
    try:
        for name in names:
            if (repository / name).exists():
                os.rename(repository / name, work / f"{name}{OLD}")
            os.rename(work / name, repository / name)
    except BaseException:
        _undo(work, repository, names)
        raise


def clear_leftovers(repository: Path, prefix: str) -> None:
    """Raises: OSError where what was moved by half cannot be moved back."""
    for work in sorted(repository.glob(f"{prefix}*")):
        if not work.is_dir():
            continue
        try:
            held = os.open(work / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if _age_s(work) > _YOUNG_S:
                shutil.rmtree(work, ignore_errors=True)
            continue
        except OSError:
            continue  # another user's
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process is at work
        else:
            _recover(work, repository)
            shutil.rmtree(work, ignore_errors=True)
        finally:
            os.close(held)


def _recover(work: Path, repository: Path) -> None:
    try:
        names = [str(name) for name in json.loads((work / JOURNAL).read_text("utf-8"))]
    except (OSError, ValueError):
        return
    if names and (work / names[-1]).exists():
        _undo(work, repository, names)


def _undo(work: Path, repository: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (work / name).exists():
            os.rename(repository / name, work / name)
        if (work / f"{name}{OLD}").exists():
            os.rename(work / f"{name}{OLD}", repository / name)


def _age_s(folder: Path) -> float:
    with suppress(OSError):
        return time.time() - folder.stat().st_mtime
    return 0.0
