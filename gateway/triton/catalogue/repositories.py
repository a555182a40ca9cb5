"""Several model repositories read as one: folders of this machine, and object stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.triton.catalogue.folder import ModelFolder, read_local
from gateway.triton.errors import TritonError

_URL = re.compile(r"(s3|gs|as)://", re.IGNORECASE)
"""What Triton takes for an object store; anything else is a path."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the repositories held at one look."""

    folders: dict[str, ModelFolder] = field(default_factory=dict)
    """By model; a name that is in two repositories is not here."""
    doubled: dict[str, str] = field(default_factory=dict)
    """Names in several repositories, with a sentence; Triton would serve none of them."""
    unread: dict[str, str] = field(default_factory=dict)
    """Repositories that could not be read from here, with a sentence. Triton may well read them."""


def is_url(repository: str | Path) -> bool:
    """Whether a repository lies in an object store."""
    return isinstance(repository, str) and bool(_URL.match(repository))


def as_argument(repository: str | Path) -> str:
    """For `--model-repository`: the URL as it is, or the whole path."""
    return str(repository) if is_url(repository) else str(Path(repository).resolve())


async def read_repositories(repositories: Sequence[str | Path]) -> Reading:
    """Every model folder of all of them, read at the same time; a failure stays with its repository."""
    found = await asyncio.gather(*(_read(repository) for repository in repositories))
    places: dict[str, list[ModelFolder]] = {}
    unread = {}
    for repository, result in zip(repositories, found, strict=True):
        if isinstance(result, str):
            unread[str(repository)] = result
            continue
        for folder in result:
            places.setdefault(folder.name, []).append(folder)
    return Reading(
        folders={name: its[0] for name, its in places.items() if len(its) == 1},
        doubled={name: _doubled(name, its) for name, its in places.items() if len(its) > 1},
        unread=unread,
    )


async def _read(repository: str | Path) -> list[ModelFolder] | str:
    """Its folders, or why it cannot be read."""
    if is_url(repository):
        # Imported when it is needed: its library is optional.
        from gateway.triton.catalogue.object_store import read_store

        try:
            return await read_store(str(repository))
        except TritonError as error:
            return str(error)
    path = Path(repository)
    try:
        return await asyncio.to_thread(read_local, path)
    except FileNotFoundError:
        return f"model repository {path} does not exist: create it, or name another in PARLEY_TRITON__REPOSITORIES"
    except OSError as error:
        return f"model repository {path} cannot be read: {error.strerror}"


def _doubled(name: str, folders: list[ModelFolder]) -> str:
    places = " and ".join(folder.repository for folder in folders)
    return f"{name} is in {len(folders)} repositories ({places}): rename or remove all but one, Triton serves none"
