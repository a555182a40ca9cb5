"""One pull from its source to a complete folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway import __version__
from gateway.triton.pulling import archives, cache, packages
from gateway.triton.pulling.download import PART, Watch, check_room, download
from gateway.triton.pulling.errors import PullError, Unreachable
from gateway.triton.pulling.hub import is_commit, note_of, plan_of_hub
from gateway.triton.pulling.licences import Licence, is_licence_text, licence_of_text
from gateway.triton.pulling.plan import Plan, Remote, megabytes, safe_path, without_secrets
from gateway.triton.pulling.retry import Again
from gateway.triton.pulling.sources import FolderSource, HubSource, PackageSource, Source, UrlSource, Wanted
from gateway.triton.pulling.threads import in_thread
from gateway.triton.pulling.web import Web

_AT_A_TIME = 3
"""Files of one pull that are transferred side by side."""

Consent = Callable[[str, Licence, int | None], Awaitable[str]]
"""Shows what is about to be transferred (its name, licence, bytes); returns how the licence was accepted, for the
record. Raises LicenceRefused."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is there now, complete."""

    path: Path
    record: dict[str, Any]
    """source, revision, files with size and sha256, licence: what provenance is made of."""
    fresh: bool
    """It was transferred now, not found."""


async def pull(
    wanted: Wanted, web: Web, watch: Watch, consent: Consent, *, into: Path | None = None
) -> Pulled:
    """into: the cache; the user's own when None. Raises: PullError."""
    into = into if into is not None else cache.cache_folder()
    if isinstance(wanted.source, FolderSource):
        return await _local(wanted.source, consent)
    if isinstance(wanted.source, PackageSource):
        return await _packaged(wanted, wanted.source, watch, consent, into)
    known = _known(wanted, into)
    if known is not None and _is_pinned(wanted):
        return known
    try:
        plan = await _plan(web, wanted)
    except Unreachable as why:
        if known is None:
            raise
        watch.say(f"{why}; what was pulled before is taken")
        return known
    folder = into / plan.folder
    if (found := await _complete(folder, plan, into)) is not None:
        return found
    accepted = await consent(plan.label, plan.licence, plan.size if plan.size is not None else wanted.size)
    async with cache.alone(folder, watch.say):
        if (found := await _complete(folder, plan, into)) is not None:  # another pull did it meanwhile
            return found
        return await _transfer(web, plan, folder, into, watch, consent, accepted)


async def _transfer(
    web: Web, plan: Plan, folder: Path, into: Path, watch: Watch, consent: Consent, accepted: str
) -> Pulled:
    partial = cache.partial(folder)
    cache.make(partial)
    _leave_only(partial, plan)
    have = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if plan.size is not None:
        check_room(partial, max(0, plan.size - have))
    watch.begin(plan.size)
    sums = await _files(web, plan, partial, watch)
    content, licence = partial, plan.licence
    if plan.archive:
        content, licence, accepted = await _unpacked(plan, partial, watch, consent, accepted)
    files = {path: {"size": size, "sha256": its} for path, (size, its) in sorted(sums.items())}
    record = _record(plan.label, plan.revision, files, licence, accepted)
    await in_thread(cache.complete, content, folder, record)
    if plan.archive:
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
    if plan.note is not None:
        cache.remember(into / plan.note, folder)
    return Pulled(folder, record, fresh=True)


async def _files(web: Web, plan: Plan, partial: Path, watch: Watch) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by path. The first failure ends them all."""
    room = asyncio.Semaphore(_AT_A_TIME)

    async def one(remote: Remote) -> tuple[int, str]:
        async with room:
            return await download(web, remote, partial, watch)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {remote.path: group.create_task(one(remote)) for remote in plan.files}
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return {path: task.result() for path, task in tasks.items()}


async def _unpacked(
    plan: Plan, partial: Path, watch: Watch, consent: Consent, accepted: str
) -> tuple[Path, Licence, str]:
    """Where the content is, its licence, and how that was accepted."""
    name = plan.files[0].path
    watch.say(f"unpacking {name}")
    target, stop = partial / ".unpacked", threading.Event()
    shutil.rmtree(target, ignore_errors=True)
    content = await in_thread(archives.unpack, partial / name, name, target, stop=stop, on_cancel=stop.set)
    return content, *await _licensed(plan.label, plan.licence, accepted, content, consent)


async def _licensed(
    label: str, licence: Licence, accepted: str, content: Path, consent: Consent
) -> tuple[Licence, str]:
    """The licence, and how it was accepted: asked for where only the content says which it is."""
    if not licence.id and (found := await asyncio.to_thread(_licence_in, content)) is not None:
        licence = found
        if licence.noncommercial:
            accepted = await consent(label, licence, None)
    return licence, accepted


async def _local(source: FolderSource, consent: Consent) -> Pulled:
    """Nothing is transferred: it is used where it is."""
    record = cache.record_of(source.path)
    if record is None:
        licence = await asyncio.to_thread(_licence_in, source.path) or Licence()
        accepted = await consent(str(source.path), licence, None)
        sums = await in_thread(_sums, source.path)
        record = {"source": str(source.path), "revision": "", "files": sums, "licence": licence.id,
                  "licence_from": licence.where, "licence_accepted": accepted, "by": f"parley {__version__}"}  # fmt: skip
    return Pulled(source.path, record, fresh=False)


async def _packaged(
    wanted: Wanted, source: PackageSource, watch: Watch, consent: Consent, into: Path
) -> Pulled:
    """A version of a package is the same for ever."""
    if wanted.parts:
        raise PullError(f"{source} has parts of its own: a package is pulled alone")
    folder = into / packages.folder_of(source)
    if (record := await asyncio.to_thread(cache.record_of, folder)) is not None:
        return Pulled(folder, record, fresh=False)
    licence = wanted.licence or Licence()
    accepted = await consent(str(source), licence, wanted.size)
    async with cache.alone(folder, watch.say):
        if (record := await asyncio.to_thread(cache.record_of, folder)) is not None:
            return Pulled(folder, record, fresh=False)
        partial = cache.partial(folder)
        cache.make(partial)
        watch.say(f"from the package index{f', {megabytes(wanted.size)}' if wanted.size else ''}")
        content = await packages.fetch(source, partial)
        licence, accepted = await _licensed(str(source), licence, accepted, content, consent)
        sums = await in_thread(_sums, content)
        record = _record(str(source), source.version, sums, licence, accepted)
        await in_thread(cache.complete, content, folder, record)
        await in_thread(shutil.rmtree, partial, ignore_errors=True)
        return Pulled(folder, record, fresh=True)


def _record(
    source: str, revision: str, files: dict[str, dict[str, Any]], licence: Licence, accepted: str
) -> dict[str, Any]:
    return {
        "source": source,
        "revision": revision,
        "files": files,
        "licence": licence.id,
        "licence_from": licence.where,
        "licence_accepted": accepted,
        "pulled_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": f"parley {__version__}",
    }


async def _plan(web: Web, wanted: Wanted) -> Plan:
    """Of the source and its parts together."""
    plan = await _plan_of(web, wanted.source, wanted.licence)
    if not wanted.parts:
        return plan
    files, key = list(plan.files), hashlib.sha256()
    for name, source in sorted(wanted.parts.items()):
        part = await _plan_of(web, source, None)
        key.update(f"{name} {part.folder}\n".encode())
        files += [replace(one, path=f"{name}/{one.path}") for one in part.files]
    folder = plan.folder.with_name(f"{plan.folder.name}-{key.hexdigest()[:8]}")
    return replace(plan, files=tuple(files), folder=folder, note=_note(wanted))


async def _plan_of(web: Web, source: Source, licence: Licence | None) -> Plan:
    if isinstance(source, HubSource):
        return await plan_of_hub(web, source, licence)
    if isinstance(source, UrlSource):
        return await _plan_of_url(web, source, licence)
    raise PullError(f"{source} is no hub's and no URL: name it alone")


async def _plan_of_url(web: Web, source: UrlSource, licence: Licence | None) -> Plan:
    """One request, whose body is left alone: which version there is today decides on the folder."""
    name = unquote(urlsplit(source.url).path.rpartition("/")[2]) or "model"
    name = safe_path(name)
    size, version, retry = None, source.sha256, web.retry()
    while True:
        try:
            async with web.get(source.url) as answer:
                length = answer.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
                version = version or answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            break
        except Again as failed:
            await retry.after(failed, answered=web.answered(source.url))
    key = hashlib.sha256(f"{source.url}\n{version}".encode()).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", archives.stem(name)).strip(".") or "model"
    return Plan(
        label=without_secrets(source.url),
        folder=Path("url") / f"{stem[:80]}-{key}",
        files=(Remote(name, source.url, size, source.sha256),),
        licence=licence or Licence(),
        revision=version.strip('"') if version else "",
        archive=archives.is_archive(name),
    )


def _note(wanted: Wanted) -> Path | None:
    """Of everything that was asked for by name."""
    if not isinstance(wanted.source, HubSource):
        return None
    note = note_of(wanted.source)
    parts = "".join(f"{name} {source}\n" for name, source in sorted(wanted.parts.items()))
    return note.with_name(note.name + hashlib.sha256(parts.encode()).hexdigest()[:8]) if parts else note


def _is_pinned(wanted: Wanted) -> bool:
    """Every name in it means one commit for ever."""
    sources = [wanted.source, *wanted.parts.values()]
    return all(isinstance(one, HubSource) and is_commit(one.revision) for one in sources)


def _known(wanted: Wanted, into: Path) -> Pulled | None:
    """What it meant last time, if that is here whole."""
    note = _note(wanted)
    if note is None:
        return None
    folder = cache.remembered(into / note, (into / note).parent.parent)
    record = cache.record_of(folder) if folder is not None else None
    return Pulled(folder, record, fresh=False) if folder is not None and record is not None else None


async def _complete(folder: Path, plan: Plan, into: Path) -> Pulled | None:
    """It is there, and nothing of it was changed in length since. A URL that names no version is never known."""
    if plan.note is None and not plan.revision:
        return None
    record = await asyncio.to_thread(cache.record_of, folder)
    if record is None:
        return None
    if not plan.archive:
        try:
            whole = all(
                (folder / path).stat().st_size == its["size"] for path, its in record["files"].items()
            )
        except (OSError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            return None
    if plan.note is not None:
        cache.remember(into / plan.note, folder)
    return Pulled(folder, record, fresh=False)


def _leave_only(partial: Path, plan: Plan) -> None:
    """What an earlier pull of other files left would become part of the folder."""
    wanted = {one.path for one in plan.files}
    for path in list(partial.rglob("*")):
        name = str(path.relative_to(partial)).removesuffix(".etag").removesuffix(PART)
        if path.is_file() and name not in wanted:
            path.unlink()


def _licence_in(folder: Path) -> Licence | None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_licence_text(path.name):
            with path.open("rb") as file:
                text = file.read(16_384).decode("utf-8", "replace")
            if (found := licence_of_text(text, path.name)) is not None:
                return found
    return None


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".git" not in path.parts:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = {"size": os.stat(path).st_size, "sha256": digest}
    return found
