"""The folder that pulled checkpoints are in: each complete or not there, one pull of a thing at a time.

CACHE/hub/OWNER--NAME/COMMIT/        a repository of the hub
CACHE/url/NAME-KEY/                  what a URL held
CACHE/….partial/                     what is not complete yet, with files called NAME.part
CACHE/….lock                         held by whoever pulls it
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.triton.exported import environment
from gateway.triton.pulling.errors import PullError

RECORD = ".pulled.json"
"""In each complete folder: where it is from, its checksums, its licence."""
WAIT_S = 3_600.0
_LOOK_S = 0.2


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/parley/checkpoints`, else `~/.cache/parley/checkpoints`."""
    return environment.cache_folder() / "checkpoints"


def partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def make(folder: Path) -> None:
    """Raises: PullError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PullError(f"cannot write to {folder}: {(error.strerror or str(error)).lower()}") from None


@asynccontextmanager
async def alone(folder: Path, say: Callable[[str], None], *, wait_s: float = WAIT_S) -> AsyncIterator[None]:
    """No other process of this machine works on `folder` meanwhile. Raises: PullError."""
    make(folder.parent)
    path = folder.with_name(folder.name + ".lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        loop = asyncio.get_running_loop()
        deadline, said = loop.time() + wait_s, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if loop.time() >= deadline:
                raise PullError(
                    f"another pull of this has been under way for {wait_s / 60:.0f} min: end it, or wait"
                )
            if not said:
                say("another pull of this is under way: waiting for it")
            said = True
            await asyncio.sleep(
                _LOOK_S
            )  # only another process' end would tell, and a blocked thread cannot be cancelled
        yield
    finally:
        os.close(file)


def record_of(folder: Path) -> dict[str, Any] | None:
    """None: the folder is not complete."""
    try:
        told = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def complete(content: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """`content` appears as `folder`, with its record. Blocks. Raises: PullError."""
    try:
        write_json(content / RECORD, record)
        if folder.exists():  # left by hand or by a crash: it has no record
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.rename(folder, aside / "old")
            shutil.rmtree(aside, ignore_errors=True)
        os.rename(content, folder)
        _sync(folder.parent)
    except OSError as error:
        raise PullError(f"cannot put {folder} in place: {(error.strerror or str(error)).lower()}") from None


def remember(note: Path, folder: Path) -> None:
    """What a name meant, for a day without network."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"folder": folder.name})


def remembered(note: Path, parent: Path) -> Path | None:
    """The complete folder that a name meant last time."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        folder = parent / Path(str(json.loads(note.read_text("utf-8"))["folder"])).name
        return folder if record_of(folder) is not None else None
    return None


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises: OSError."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(told), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
        raise


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
