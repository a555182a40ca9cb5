"""Archives are opened as if a stranger had made them: no path leads out, no link is made, there is an end to it."""

from __future__ import annotations

import posixpath
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gateway.triton.pulling.download import check_room
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.plan import megabytes, safe_path

SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar", ".zip")
MAX_BYTES = 64 << 30
MAX_FILES = 50_000
_CHUNK = 1 << 20


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """The name without what makes it an archive."""
    suffix = next((one for one in SUFFIXES if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)] if suffix else name


def unpack(
    archive: Path,
    name: str,
    folder: Path,
    *,
    stop: threading.Event,
    most: int = MAX_BYTES,
    files: int = MAX_FILES,
) -> Path:
    """Into `folder`, which is made and must not exist. Returns where its content is: the only folder in it, if it
    has but one. Blocks; ends early with a PullError when `stop` is set. name: says by its end what kind it is.

    Raises: PullError; then `folder` is gone again.
    """
    folder.mkdir(parents=True)
    try:
        room = _Room(folder, stop, most, files)
        links: dict[str, str] = {}
        members = _zip(archive, room) if name.lower().endswith(".zip") else _tar(archive, links, room)
        for path, source in members:
            room.file(path, source)
        _follow(links, folder, room)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PullError(
            f"{name} cannot be unpacked: {why.splitlines()[0].lower() if why else 'it is broken'}"
        ) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    inner = list(folder.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder


class _Room:
    """Writes what comes, and counts."""

    def __init__(self, folder: Path, stop: threading.Event, most: int, files: int) -> None:
        self._folder, self._stop, self._most, self._files = folder, stop, most, files
        self._bytes = self._count = self._since = 0

    def entry(self) -> None:
        """One more of whatever kind."""
        self._count += 1
        if self._count > self._files:
            raise PullError(f"the archive holds more than {self._files} files")

    def file(self, path: str, source: IO[bytes]) -> None:
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:  # never through something that is there
            while piece := source.read(_CHUNK):
                if self._stop.is_set():
                    raise PullError("unpacking was interrupted")
                self._bytes += len(piece)
                self._since += len(piece)
                if self._bytes > self._most:
                    raise PullError(
                        f"the archive holds more than {megabytes(self._most)}, which no model does"
                    )
                if self._since >= 64 * _CHUNK:
                    check_room(self._folder, 0)
                    self._since = 0
                file.write(piece)


def _tar(archive: Path, links: dict[str, str], room: _Room) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            room.entry()
            path = _inside(member.name)
            if not path or member.isdir():
                continue
            if member.issym():
                links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            elif member.islnk():
                links[path] = posixpath.normpath(member.linkname)
            elif member.isfile():
                source = tar.extractfile(member)
                if source is not None:
                    yield path, source
            else:
                raise PullError(f"the archive holds {path!r}, which is neither a file nor a folder")


def _zip(archive: Path, room: _Room) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            room.entry()
            path = _inside(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if not path or info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                raise PullError(f"the archive holds {path!r}, which is a link or no file at all")
            with packed.open(info) as source:
                yield path, source


def _inside(name: str) -> str:
    """ "" for the archive's own root. Raises: PullError."""
    while name.startswith("./"):
        name = name[2:]
    return safe_path(name) if name not in ("", ".") else ""


def _follow(links: dict[str, str], folder: Path, room: _Room) -> None:
    """A link to a file of the archive becomes a copy of it; any other is refused."""
    for path, target in links.items():
        seen = {path}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if (
            target.startswith(("/", "../"))
            or target == ".."
            or target in seen
            or not (folder / target).is_file()
        ):
            raise PullError(f"the archive holds {path!r}, a link to something that is no file of the archive")
        with (folder / target).open("rb") as source:
            room.file(path, source)
