"""Model repositories in object stores: listed, and their small texts read, with Triton's own credentials.

URLs as Triton writes them: `s3://bucket/path`, `s3://host:port/bucket/path` (HTTP) or
`s3://https://host:port/bucket/path` for a store of one's own, `gs://bucket/path`,
`as://account/container/path`. Credentials come from the environment that tritonserver reads
(`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_KEY`, …) or from the file that
`TRITON_CLOUD_CREDENTIAL_PATH` names, by the longest URL that fits.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.triton.catalogue.folder import (
    MAX_ENTRIES,
    MAX_TEXT_BYTES,
    ModelFolder,
    is_model_name,
    wanted_text,
)
from gateway.triton.errors import TritonError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_DEADLINE_S = 15.0
"""For everything that is read of one repository."""
_CALL_S = 5
_READS = 16
"""Texts read at the same time."""
_MAX_OBJECTS = 100_000
_OWN_S3 = re.compile(r"s3://(https?://)?([0-9a-z.\-]+:[0-9]+)/([^/]+)/?(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository lies."""

    kind: str
    """s3, gs or as."""
    bucket: str
    """Bucket or container."""
    path: str
    """Without slashes at its ends; may be ""."""
    endpoint: str = ""
    """URL of a store of one's own (s3)."""
    account: str = ""
    """Azure's storage account."""


def parse(url: str) -> Place:
    """Raises: TritonError, when it names no bucket."""
    kind = url.partition("://")[0].lower()
    own = _OWN_S3.fullmatch(url) if kind == "s3" else None
    if own is not None:
        scheme, host, bucket, path = own.groups()
        return Place(kind, bucket, path.strip("/"), f"{scheme or 'http://'}{host}")
    first, _, rest = url.partition("://")[2].partition("/")
    account = ""
    if kind == "as":
        account, (first, _, rest) = first, rest.partition("/")
    if not first:
        shape = "as://account/container/path" if kind == "as" else f"{kind}://bucket/path"
        raise TritonError(f"model repository {url} names no bucket: write {shape}")
    return Place(kind, first, rest.strip("/"), account=account)


async def read_store(url: str) -> list[ModelFolder]:
    """Every model folder below `url`, by name.

    Raises: TritonError in a sentence, also when the library for it is not installed.
    """
    place = parse(url)
    obstore, exceptions = _library(url)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            store = _open(url, place, call_s=_CALL_S, retries=2)
            sizes = await _list(obstore, store)
            return await _folders(obstore, store, url, sizes)
    except TimeoutError:
        raise TritonError(f"model repository {url}: no answer within {_DEADLINE_S:g} s") from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise TritonError(f"model repository {url} cannot be read: {why(error)}") from None


def open_store(url: str, *, call_s: int, retries: int) -> ObjectStore:
    """The store at `url`, for obstore's functions. call_s: longest of one call, its content included.

    Raises: TritonError when it names no bucket, its credentials cannot be read or the library is not installed.
    """
    _, exceptions = _library(url)
    try:
        return _open(url, parse(url), call_s=call_s, retries=retries)
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise TritonError(f"model repository {url} cannot be read: {why(error)}") from None


def _library(url: str) -> tuple[Any, Any]:
    try:
        import obstore
        from obstore import exceptions
    except ImportError:
        raise TritonError(
            f"model repository {url} cannot be read from here without obstore: pip install 'parley[cloud]'"
        ) from None
    return obstore, exceptions


async def _list(obstore: Any, store: ObjectStore) -> dict[str, int]:
    sizes: dict[str, int] = {}
    async for batch in obstore.list(store):
        sizes.update((one["path"], one["size"]) for one in batch)
        if len(sizes) > _MAX_OBJECTS:
            raise ValueError(f"it holds more than {_MAX_OBJECTS} objects; name a smaller folder")
    return sizes


async def _folders(obstore: Any, store: ObjectStore, url: str, sizes: Mapping[str, int]) -> list[ModelFolder]:
    entries: dict[str, set[str]] = {}
    wanted: list[tuple[str, str]] = []
    for path, size in sizes.items():
        name, _, inner = path.partition("/")
        if not inner or not is_model_name(name):
            continue
        its = entries.setdefault(name, set())
        if len(its) >= MAX_ENTRIES:
            continue
        parts = inner.split("/")
        its.update("/".join(parts[:depth]) + "/" for depth in range(1, min(len(parts), 3)))
        if len(parts) <= 2:
            its.add(inner)
            if wanted_text(inner) and size <= MAX_TEXT_BYTES:
                wanted.append((name, inner))
    room = asyncio.Semaphore(_READS)

    async def read(name: str, inner: str) -> bytes:
        async with room:
            found = await obstore.get_async(store, f"{name}/{inner}")
            return bytes(await found.bytes_async())

    texts: dict[str, dict[str, bytes]] = {name: {} for name in entries}
    contents = await asyncio.gather(*(read(name, inner) for name, inner in wanted))
    for (name, inner), content in zip(wanted, contents, strict=True):
        texts[name][inner] = content
    return [ModelFolder(name, url, frozenset(entries[name]), texts[name]) for name in sorted(entries)]


def _open(url: str, place: Place, *, call_s: int, retries: int) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, S3Store

    given = _credentials(url, place.kind)
    prefix = place.path or None
    timing: dict[str, Any] = {
        "client_options": {"timeout": f"{call_s}s", "connect_timeout": "3s", "allow_http": True},
        "retry_config": {"max_retries": retries},
    }
    if place.kind == "s3":
        keys = {
            "access_key_id": given.get("key_id"),
            "secret_access_key": given.get("secret_key"),
            "session_token": given.get("session_token"),
            "region": given.get("region") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            "endpoint": place.endpoint,
        }
        known = {key: value for key, value in keys.items() if value}
        return S3Store(place.bucket, prefix=prefix, config=known, **timing)  # type: ignore[arg-type]
    if place.kind == "gs":
        path = given.get("path") or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        google = {"application_credentials": path} if path else {}
        return GCSStore(place.bucket, prefix=prefix, config=google, **timing)  # type: ignore[arg-type]
    azure = {
        "account_name": place.account,
        "account_key": given.get("account_key") or os.environ.get("AZURE_STORAGE_KEY"),
    }
    known = {key: value for key, value in azure.items() if value}
    return AzureStore(place.bucket, prefix=prefix, config=known, **timing)  # type: ignore[arg-type]


def _credentials(url: str, kind: str) -> dict[str, str]:
    """Of Triton's credential file, for the longest URL that `url` begins with. Raises: TritonError."""
    path = os.environ.get("TRITON_CLOUD_CREDENTIAL_PATH")
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            known: dict[str, Any] = json.load(file).get(kind, {})
        fitting = max((start for start in known if url.startswith(start)), key=len, default=None)
        found = known[fitting] if fitting is not None else {}
    except (OSError, ValueError, AttributeError):
        raise TritonError(
            f"TRITON_CLOUD_CREDENTIAL_PATH: {path} cannot be read as Triton's credential JSON"
        ) from None
    return {"path": found} if isinstance(found, str) else dict(found)


def why(error: Exception) -> str:
    """What matters of the library's long sentence: not the request's URL, retries and XML."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = line.partition(" - ")[2] or line
    line = re.split(r": ?<|\s*\[", line)[0].removeprefix("Server returned non-2xx status code: ").strip()
    hint = "; check the credentials" if re.match(r"40[13]", line) else ""
    return (line if len(line) <= 200 else line[:200] + "…") + hint
