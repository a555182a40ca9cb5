"""One file: what is there already is kept, the rest is asked for, and the whole is checked before it has its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import aiohttp

from gateway.triton.pulling.cache import make
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.plan import Remote, megabytes
from gateway.triton.pulling.retry import Again
from gateway.triton.pulling.threads import in_thread
from gateway.triton.pulling.web import Web

PART = ".part"
"""Ends the name of a file that is not whole."""
_TAG = ".part.etag"
"""Beside it: the server's word for the version that the part is of."""
_CHUNK = 1 << 18
_ROOM_EVERY = 64 << 20
RESERVE = 64 << 20
"""Bytes that stay free on the disk."""


class Watch(Protocol):
    """Whoever is shown how far a pull is."""

    def say(self, text: str) -> None: ...

    def begin(self, size: int | None) -> None:
        """size: bytes of all files, where they are known."""
        ...

    def advance(self, size: int) -> None:
        """Bytes came, or, less than none, were thrown away."""
        ...


@dataclass(slots=True)
class _Sums:
    """Of the bytes so far. Git's needs the size beforehand."""

    sha256: Any
    git: Any | None

    @classmethod
    def new(cls, remote: Remote) -> _Sums:
        git = None
        if remote.git_sha1 and remote.size is not None:
            git = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
        return cls(hashlib.sha256(), git)

    def clear(self, remote: Remote) -> None:
        fresh = self.new(remote)
        self.sha256, self.git = fresh.sha256, fresh.git

    def update(self, piece: bytes) -> None:
        self.sha256.update(piece)
        if self.git is not None:
            self.git.update(piece)

    def read(self, path: Path) -> None:
        """Blocks."""
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                self.update(piece)


class _Part:
    """A file that is not whole, and the server's word for the version that it is of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + PART)
        self._tag = target.with_name(target.name + _TAG)

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self) -> str:
        return self._tag.read_text("utf-8") if self._tag.is_file() else ""

    def begin(self, validator: str, *, anew: bool) -> IO[bytes]:
        self._tag.write_text(validator, "utf-8")
        return self.path.open("wb" if anew else "ab", buffering=0)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)

    def settle(self, target: Path) -> None:
        """Whole, and on the disk, before it has its name."""
        self.path.touch()  # of an empty file nothing came
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self._tag.unlink(missing_ok=True)


async def download(web: Web, remote: Remote, folder: Path, watch: Watch) -> tuple[int, str]:
    """Into `folder / remote.path`. Returns its size and SHA-256. A file that is there whole is checked again, not
    transferred again; a part is gone on with, where the server still has the same version.

    Raises: PullError. What was transferred stays as NAME.part, unless it is wrong: then it is deleted.
    """
    target = folder / remote.path
    make(target.parent)
    if (known := await in_thread(_whole, remote, target)) is not None:
        watch.advance(known[0])
        return known
    part, retry, told = _Part(target), web.retry(), 0
    while True:
        sums, had = _Sums.new(remote), part.size()
        provable = bool(remote.sha256 or remote.git_sha1)
        if had and (not (part.validator() or provable) or (remote.size is not None and had > remote.size)):
            part.drop()
            had = 0
        if had:
            await in_thread(sums.read, part.path)
        watch.advance(had - told)
        told = had
        try:
            if remote.size is None or had < remote.size:
                told = await _transfer(web, remote, part, had, sums, watch, retry.progress)
            break
        except Again as failed:
            told = part.size()
            await retry.after(failed, answered=web.answered(remote.url))
    if why := _wrong(remote, told, sums):
        part.drop()
        watch.advance(-told)
        raise PullError(f"{remote.path} {why}: what came was deleted, pull again")
    await in_thread(part.settle, target)
    return told, sums.sha256.hexdigest()


async def _transfer(
    web: Web, remote: Remote, part: _Part, had: int, sums: _Sums, watch: Watch, progress: Callable[[], None]
) -> int:
    """One try. Returns the size of the part. Raises: Again, PullError."""
    headers = {"Range": f"bytes={had}-"} if had else {}
    if had and (validator := part.validator()):
        headers["If-Range"] = validator
    async with web.get(remote.url, headers) as answer:
        if answer.status == 416:
            if _total(answer) == had:
                return had  # it was whole, and nobody knew how long it is
            part.drop()
            raise Again(PullError(f"{remote.path}: the server has less of it than is here"))
        begins, total = _range(answer)
        if answer.status == 206 and begins != had:
            part.drop()
            raise Again(PullError(f"{remote.path}: the server sent another part than was asked for"))
        if answer.status == 200 and had:  # another version by now, or a server without ranges
            watch.advance(-had)
            had = 0
            sums.clear(remote)
        _no_page(remote, answer)
        if remote.size is not None and total is not None and total != remote.size:
            part.drop()
            raise PullError(
                f"{remote.path} is said to have {remote.size} bytes and the server has {total}: nothing is kept"
            )
        try:
            with part.begin(_validator(answer), anew=not had) as file:
                since = 0
                async for piece in answer.content.iter_chunked(_CHUNK):
                    if remote.size is not None and had + len(piece) > remote.size:
                        raise PullError(f"{remote.path}: more came than the {remote.size} bytes that it has")
                    file.write(piece)
                    sums.update(piece)
                    had, since = had + len(piece), since + len(piece)
                    watch.advance(len(piece))
                    progress()
                    if since >= _ROOM_EVERY:
                        check_room(part.path.parent, 0)
                        since = 0
        except OSError as error:
            if isinstance(error, (aiohttp.ClientError, TimeoutError, ConnectionError)):
                raise
            raise PullError(f"cannot write {part.path}: {(error.strerror or str(error)).lower()}") from None
    if total is not None and had < total:
        raise Again(PullError(f"{remote.path}: {total - had} bytes are missing at its end"))
    return had


def _whole(remote: Remote, target: Path) -> tuple[int, str] | None:
    """Of a file that an earlier pull finished; one that is wrong is deleted. Blocks."""
    if not target.is_file():
        return None
    sums = _Sums.new(remote)
    sums.read(target)
    size = target.stat().st_size
    if _wrong(remote, size, sums):
        target.unlink()
        return None
    return size, sums.sha256.hexdigest()


def check_room(folder: Path, needed: int) -> None:
    """Blocks a moment. Raises: PullError when `needed` bytes more do not fit beside the reserve."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed + RESERVE > free:
        raise PullError(
            f"{megabytes(needed + RESERVE)} are needed in {folder}, where {megabytes(free)} are free: "
            "make room, or set XDG_CACHE_HOME to another disk"
        )


def _wrong(remote: Remote, size: int, sums: _Sums) -> str:
    """What is wrong with it, or ""."""
    if remote.size is not None and size != remote.size:
        return f"has {size} bytes and not {remote.size}"
    if remote.sha256 and sums.sha256.hexdigest() != remote.sha256.lower():
        return f"does not have the checksum {remote.sha256[:12]}… that was announced"
    if sums.git is not None and not remote.sha256 and sums.git.hexdigest() != remote.git_sha1:
        return f"is not the file that git knows as {remote.git_sha1[:12]}…"
    return ""


def _validator(answer: aiohttp.ClientResponse) -> str:
    """What If-Range takes: a strong entity tag or a date; "" where there is neither."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def _range(answer: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Where the body begins, and how long the whole file is."""
    if answer.status == 206:
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        return (int(begins) if begins.isdecimal() else -1), _total(answer)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _total(answer: aiohttp.ClientResponse) -> int | None:
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdecimal() else None


def _no_page(remote: Remote, answer: aiohttp.ClientResponse) -> None:
    """Raises: PullError for what a browser would show in place of a file."""
    if answer.content_type == "text/html" and not remote.path.endswith((".html", ".htm")):
        raise PullError(
            f"{remote.path}: the server answered with a web page; is that the address of the file itself?"
        )
