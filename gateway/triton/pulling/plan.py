"""What a pull is about to transfer, whatever its source; and names of files that stay in their folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.licences import Licence


@dataclass(frozen=True, slots=True)
class Remote:
    """One file."""

    path: str
    """Relative, with forward slashes; see `safe_path`."""
    url: str
    size: int | None = None
    """Bytes, where they are known beforehand."""
    sha256: str = ""
    git_sha1: str = ""
    """Git's name of the blob: SHA-1 of "blob SIZE\\0" and the content."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One folder to be."""

    label: str
    """For people and provenance: owner/name, or a URL without its secrets."""
    folder: Path
    """Below the cache."""
    files: tuple[Remote, ...]
    licence: Licence
    revision: str = ""
    archive: bool = False
    """The only file is one, and its content is what is wanted."""
    note: Path | None = None
    """Below the cache: where the name that was asked for is kept beside what it meant, for days without network."""

    @property
    def size(self) -> int | None:
        """Bytes; None where one file's is not known."""
        sizes = [one.size for one in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def safe_path(text: str) -> str:
    """A relative path that stays inside. Raises: PullError."""
    path = PurePosixPath(text)
    parts = text.rstrip("/").split("/")
    if path.is_absolute() or "\\" in text or "\0" in text or any(part in ("", ".", "..") for part in parts):
        raise PullError(f"it holds a file called {text!r}, which would lie outside its folder")
    if max(len(part.encode()) for part in parts) > 240:
        raise PullError(f"it holds a file with a name that is too long: {text[:40]!r}…")
    return path.as_posix()


def without_secrets(url: str) -> str:
    """Neither user and password nor a query, where signatures and tokens are."""
    split = urlsplit(url)
    host = split.netloc.rpartition("@")[2]
    return urlunsplit((split.scheme, host, split.path, "", ""))


def megabytes(size: float) -> str:
    """ "63 MB", "1.6 GB"; 10^6 and 10^9 bytes."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return (
        f"{size / 1e6:.0f} MB"
        if size >= 1e7
        else f"{size / 1e6:.1f} MB"
        if size >= 1e5
        else f"{size / 1e3:.0f} kB"
    )
