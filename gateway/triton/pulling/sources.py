"""What a person may name as SOURCE, told apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from gateway.triton.pulling.entries import Entry, Shelf
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.plan import without_secrets

_OWNER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"(?:hf:)?(?P<id>{_OWNER}/{_OWNER})(?:@(?P<revision>[^@\s]{{1,200}}))?")
_PAGE = re.compile(rf"/(?P<id>{_OWNER}/{_OWNER})(?:/tree/(?P<revision>[^/]+))?/?")
PACKAGE = "package:"
_PACKAGE = re.compile(
    rf"{PACKAGE}(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,98}}[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]{{0,60}})"
)
_SHA256 = re.compile(r"sha256=(?P<sum>[0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a Hugging Face hub."""

    id: str
    """owner/name"""
    revision: str = "main"
    files: tuple[str, ...] = ()
    """Patterns; none: by rule."""
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file, or an archive."""

    url: str
    sha256: str = ""

    def __str__(self) -> str:
        return without_secrets(self.url)


@dataclass(frozen=True, slots=True)
class FolderSource:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A Python package that has a model in it."""

    name: str
    version: str
    files: tuple[str, ...] = ()
    """Patterns; none: all but its code."""
    sha256: str = ""
    """Of its wheel."""

    def __str__(self) -> str:
        return f"{PACKAGE}{self.name}=={self.version}"


Source = HubSource | UrlSource | FolderSource | PackageSource


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that is known before anything is asked."""

    source: Source
    name: str = ""
    """Of the catalogue's entry."""
    parts: Mapping[str, Source] = field(default_factory=dict)
    """Into a folder of that name."""
    licence: Licence | None = None
    """The catalogue's word."""
    family: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    """About, bytes."""


def wanted(text: str, shelf: Shelf, *, endpoint: str = "", files: tuple[str, ...] = ()) -> Wanted:
    """SOURCE of a person: an entry of the catalogue first, then a folder, then an id or a URL.

    files: patterns that take the place of the entry's, or of the rule. Raises: PullError.
    """
    if text in shelf.models:
        return of_entry(text, shelf.models[text], endpoint=endpoint, files=files)
    return Wanted(source_of(text, endpoint=endpoint, files=files))


def of_entry(name: str, entry: Entry, *, endpoint: str = "", files: tuple[str, ...] = ()) -> Wanted:
    """Raises: PullError."""
    text = entry.source
    if entry.revision != "main" and "@" not in text:
        text = f"{text}@{entry.revision}"
    source = source_of(text, endpoint=endpoint, files=files or entry.files)
    if isinstance(source, HubSource):
        source = HubSource(source.id, source.revision, source.files, dict(entry.sha256))
    elif isinstance(source, PackageSource):
        source = replace(source, sha256=next(iter(entry.sha256.values()), ""))
    elif isinstance(source, UrlSource) and not source.sha256:
        source = UrlSource(source.url, next(iter(entry.sha256.values()), ""))
    parts = {part: source_of(its, endpoint=endpoint) for part, its in entry.parts.items()}
    size = int(entry.size_mb * 1e6) if entry.size_mb else None
    return Wanted(source, name, parts, entry.licence_of(), entry.family, entry.options, size)


def source_of(text: str, *, endpoint: str = "", files: tuple[str, ...] = ()) -> Source:
    """endpoint: the hub's, whose pages are as good as ids. Raises: PullError."""
    if text.startswith(("http://", "https://")):
        return _url(text, endpoint, files)
    if text.startswith(PACKAGE):
        package = _PACKAGE.fullmatch(text)
        if package is None:
            raise PullError(f"{text}: a package is named with its version, as package:NAME==1.2.3")
        return PackageSource(package["name"], package["version"], files)
    path = Path(text).expanduser()
    if not text.startswith("hf:") and path.is_dir():
        return FolderSource(path.resolve())
    found = _ID.fullmatch(text)
    if found is not None and not text.startswith((".", "/", "~")):
        return HubSource(found["id"], found["revision"] or "main", files)
    if path.is_file():
        raise PullError(f"{text} is a file; name the folder that it is in")
    raise PullError(
        f"{text} is no entry of the catalogue (`parley models catalogue`), no owner/name of a hub, no http(s) URL, "
        "no package:NAME==VERSION and no folder here"
    )


def _url(text: str, endpoint: str, files: tuple[str, ...]) -> Source:
    url, fragment = urldefrag(text)
    if endpoint and url.startswith(endpoint.rstrip("/") + "/"):
        page = _PAGE.fullmatch(urlsplit(url).path.removeprefix(urlsplit(endpoint).path.rstrip("/")))
        if page is not None:
            return HubSource(page["id"], unquote(page["revision"] or "main"), files)
    found = _SHA256.fullmatch(fragment)
    if fragment and found is None:
        raise PullError(
            f"#{fragment}: after the # of a URL comes sha256= and 64 hexadecimal digits, or nothing"
        )
    if not urlsplit(url).hostname:
        raise PullError(f"{without_secrets(text)} is no address")
    return UrlSource(url, found["sum"].lower() if found else "")
