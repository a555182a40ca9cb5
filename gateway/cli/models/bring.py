"""From a source to something that Triton can load: pulled, and then put into a repository or exported into it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.cli.common import Fault
from gateway.cli.models.pull_consent import consent_of
from gateway.cli.models.pull_shown import shown
from gateway.triton.exported.environment import ExportUnavailable, run_export
from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, FAMILIES
from gateway.triton.pulling import archives
from gateway.triton.pulling.cache import write_json
from gateway.triton.pulling.download import Watch
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.families import family_of, heart_of
from gateway.triton.pulling.place import PROVENANCE, brings_code, model_folders, place
from gateway.triton.pulling.pull import Pulled, pull
from gateway.triton.pulling.sources import HubSource, Wanted
from gateway.triton.pulling.threads import in_thread
from gateway.triton.pulling.web import Web

Exporter = Callable[[Sequence[str]], Awaitable[int]]
"""`run_export`, or a test's."""
_RECORDED = {"--called": "source", "--revision": "revision", "--license": "licence"}


@dataclass(frozen=True, slots=True)
class Brought:
    path: Path
    """The checkpoint's folder, or where the models were."""
    models: tuple[str, ...] = ()
    """Names in the repository; none: it is a checkpoint that nothing was made of."""
    family: str = ""
    licence: str = ""
    fresh: bool = True


async def bring(
    wanted: Wanted,
    *,
    repository: Path,
    name: str = "",
    family: str = "",
    export: bool = True,
    accepted: Sequence[str] = (),
    yes: bool = False,
    exporter: Exporter = run_export,
) -> Brought:
    """Raises: PullError, Fault."""
    with shown(_label(wanted)) as watch:
        pulled = await _pulled(wanted, watch, accepted, yes)
        folders = await asyncio.to_thread(model_folders, pulled.path)
        licence = str(pulled.record.get("licence") or "")
        if folders:
            names = await _placed(folders, pulled, repository, name, watch)
            return Brought(pulled.path, tuple(names), "", licence, pulled.fresh)
        family = family or wanted.family or await asyncio.to_thread(family_of, pulled.path)
    if not export:
        return Brought(pulled.path, (), family, licence, pulled.fresh)
    if family not in FAMILIES:
        return Brought(pulled.path, (), family, licence, pulled.fresh)
    made = await _exported(wanted, pulled, family, repository, name, exporter)
    return Brought(pulled.path, (made,), family, licence, pulled.fresh)


async def bring_checkpoint(wanted: Wanted, *, accepted: Sequence[str] = (), yes: bool = False) -> Pulled:
    """Only pulled: whole, here, and put nowhere. Raises: PullError, Fault for a folder of Triton models."""
    with shown(_label(wanted)) as watch:
        pulled = await _pulled(wanted, watch, accepted, yes)
    if await asyncio.to_thread(model_folders, pulled.path):
        raise Fault(
            f"{_label(wanted)} is no checkpoint but ready for Triton: `parley models pull` puts it into a repository"
        )
    return pulled


def export_arguments(record: Mapping[str, Any], path: Path, parts: Iterable[str] = ()) -> list[str]:
    """What an export is told of a pulled checkpoint: its name, revision and licence, and where its parts lie."""
    told = {key: str(record.get(name) or "") for key, name in _RECORDED.items()}
    arguments = [word for flag, value in told.items() if value for word in (flag, value)]
    return arguments + [word for part in parts for word in ("--option", f"{part}={path / part}")]


async def _pulled(wanted: Wanted, watch: Watch, accepted: Sequence[str], yes: bool) -> Pulled:
    consent = consent_of(accepted=accepted, yes=yes, say=lambda text: watch.say(text))
    async with Web.from_environment(say=watch.say) as web:
        pulled = await pull(wanted, web, watch, consent)
    watch.say(f"is complete in {pulled.path}" if pulled.fresh else f"is here: {pulled.path}")
    return pulled


def _label(wanted: Wanted) -> str:
    return wanted.name or str(wanted.source)


def model_name(wanted: Wanted, family: str, path: Path) -> str:
    """Of what an export makes."""
    kind = "asr" if family in ASR_FAMILIES else "codec" if family in CODEC_FAMILIES else "tts"
    source = wanted.source
    base = wanted.name or (source.id.rpartition("/")[2] if isinstance(source, HubSource) else path.name)
    return f"{kind}_" + "".join(c if c.isalnum() else "_" for c in base.lower()).strip("_")


async def _placed(
    folders: Sequence[Path], pulled: Pulled, repository: Path, name: str, watch: Watch
) -> list[str]:
    stem = archives.stem(str(pulled.record.get("source", "")).rstrip("/").rpartition("/")[2])
    names = await in_thread(place, folders, repository, name=name, fallback=stem, record=pulled.record)
    watch.say(f"{', '.join(names)} in {repository}")
    if code := brings_code([repository / one for one in names]):
        watch.say(
            f"brings code that Triton will run with the rights of its own process: {', '.join(code[:3])}"
            + (f" and {len(code) - 3} more" if len(code) > 3 else "")
        )
    return names


async def _exported(
    wanted: Wanted, pulled: Pulled, family: str, repository: Path, name: str, exporter: Exporter
) -> str:
    name = name or model_name(wanted, family, pulled.path)
    told = repository / name / PROVENANCE
    if not pulled.fresh and _made_of(told) == _essence(pulled.record):
        return name
    arguments = [family, str(heart_of(pulled.path, family)), "--out", str(repository), "--name", name]
    arguments += export_arguments(pulled.record, pulled.path, wanted.parts)
    for key, value in wanted.options.items():
        arguments += ["--option", f"{key}={value}"]
    try:
        code = await exporter(arguments)
    except ExportUnavailable as error:
        raise Fault(
            f"{wanted.name or wanted.source} was pulled to {pulled.path}, but not exported: {error}"
        ) from None
    if code:
        raise Fault(
            f"{wanted.name or wanted.source} was pulled to {pulled.path}, but its export failed: the lines above say why"
        )
    await asyncio.to_thread(_record, told, pulled.record)
    return name


def _record(path: Path, record: dict[str, Any]) -> None:
    """What the pull knew, beside what the export wrote. Raises: Fault."""
    try:
        told = json.loads(path.read_text("utf-8"))
        write_json(path, {**told, "pulled": record})
    except (OSError, ValueError) as error:
        raise Fault(f"the export left no {path} that can be read: {error}") from None


def _made_of(path: Path) -> object:
    try:
        return _essence(json.loads(path.read_text("utf-8"))["pulled"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _essence(record: dict[str, Any]) -> object:
    return record.get("source"), record.get("revision"), record.get("files")


__all__ = [
    "Brought", "Exporter", "PullError", "bring", "bring_checkpoint", "export_arguments", "model_name",
]  # fmt: skip
