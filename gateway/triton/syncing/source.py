"""Where a repository comes from: a folder (a volume, an image's own) or an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from gateway.triton.catalogue.repositories import is_url
from gateway.triton.syncing.manifest import MAX_BYTES, NAME, SyncError

_BLOCK = 1 << 20
_PIECE = 8 << 20
"""Of an object, asked for at a time: each has a deadline of its own, whatever the object's size."""
_PIECE_S = 60


class Source(Protocol):
    """Blocking, from any thread."""

    def manifest(self) -> str:
        """Raises: SyncError when there is none, or it cannot be read."""
        ...

    def read(self, path: str, start: int) -> Iterator[bytes]:
        """A file below the repository, from a byte on. Raises: SyncError."""
        ...


def open_source(source: str) -> Source:
    """source: a folder, or s3://, gs://, as:// as Triton writes them. Raises: TritonError."""
    return _Store(source) if is_url(source) else _Folder(Path(source))


def _no_manifest(source: str) -> SyncError:
    return SyncError(f"{source} has no {NAME}: write it there with `parley models manifest`")


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise SyncError(f"model repository {folder} does not exist: is its volume mounted?")

    def manifest(self) -> str:
        try:
            with (self._folder / NAME).open("rb") as file:
                return _text(file.read(MAX_BYTES + 1), str(self._folder))
        except FileNotFoundError:
            raise _no_manifest(str(self._folder)) from None
        except OSError as error:
            raise SyncError(f"{self._folder / NAME} cannot be read: {error.strerror}") from None

    def read(self, path: str, start: int) -> Iterator[bytes]:
        try:
            with (self._folder / path).open("rb") as file:
                file.seek(start)
                while block := file.read(_BLOCK):
                    yield block
        except FileNotFoundError:
            raise SyncError(f"{self._folder / path} is in the manifest and not there") from None
        except OSError as error:
            raise SyncError(f"{self._folder / path} cannot be read: {error.strerror}") from None


class _Store:
    def __init__(self, url: str) -> None:
        from gateway.triton.catalogue.object_store import open_store

        self._url = url
        self._store = open_store(url, call_s=_PIECE_S, retries=5)

    def manifest(self) -> str:
        import obstore

        try:
            if obstore.head(self._store, NAME)["size"] > MAX_BYTES:
                return _text(b"\0" * (MAX_BYTES + 1), self._url)
            return _text(bytes(obstore.get(self._store, NAME).bytes()), self._url)
        except FileNotFoundError:
            raise _no_manifest(self._url) from None
        except _errors() as error:
            raise self._failed(NAME, error) from None

    def read(self, path: str, start: int) -> Iterator[bytes]:
        import obstore

        try:
            size = obstore.head(self._store, path)["size"]
            while start < size:
                piece = bytes(
                    obstore.get_range(self._store, path, start=start, end=min(size, start + _PIECE))
                )
                if not piece:
                    raise SyncError(
                        f"{self._url}/{path} ends before its end: somebody changes it; start again"
                    )
                start += len(piece)
                yield piece
        except FileNotFoundError:
            raise SyncError(f"{self._url}/{path} is in the manifest and not there") from None
        except _errors() as error:
            raise self._failed(path, error) from None

    def _failed(self, path: str, error: Exception) -> SyncError:
        from gateway.triton.catalogue.object_store import why

        return SyncError(f"{self._url}/{path} cannot be read: {why(error)}")


def _errors() -> Any:
    from obstore import exceptions

    return (exceptions.BaseError, OSError, ValueError)


def _text(content: bytes, where: str) -> str:
    if len(content) > MAX_BYTES:
        raise SyncError(f"{where}/{NAME} is larger than {MAX_BYTES >> 20} MiB: that is no manifest")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SyncError(f"{where}/{NAME} is no text: write it with `parley models manifest`") from None
