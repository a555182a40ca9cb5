"""`scripts/demo --models PAIR`: a recogniser and a voice of the catalogue in place of the built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.common import Fault, load_settings
from gateway.cli.models.bring import Brought, Exporter, bring
from gateway.cli.models.catalogue import open_shelf
from gateway.triton.exported.environment import cache_folder, run_export
from gateway.triton.pulling.cache import make
from gateway.triton.pulling.entries import Entry
from gateway.triton.pulling.errors import PullError
from gateway.triton.pulling.sources import of_entry

_WITHOUT = "`scripts/demo` without --models needs no download"


@dataclass(frozen=True, slots=True)
class Chosen:
    asr: str
    """Models, as the repository names them."""
    tts: str
    """ "": the built-in voice."""
    repository: Path
    environment: dict[str, str]
    """Settings with which the stack uses them."""


async def choose(pair: str, say: Callable[[str], None], *, exporter: Exporter = run_export) -> Chosen:
    """Pull and export what is not there yet, into a repository of its own below the cache. Raises: Fault."""
    shelf = open_shelf()
    repository = cache_folder() / "models"
    try:
        found = shelf.pair(pair)
        make(repository)
        entries = {name: shelf.entry(name) for name in (found.asr, found.tts) if name is not None}
        say(
            f"{found.asr} hears and {found.tts or 'the built-in voice'} speaks, in {repository}"
            f"{_untested(*entries.values())}"
        )
        models = [
            _front(await bring(of_entry(name, entry), repository=repository, exporter=exporter), entry.kind)
            for name, entry in entries.items()
        ]
    except PullError as error:
        raise Fault(f"{error}; {_WITHOUT}") from None
    except Fault as fault:
        raise Fault(f"{fault}; {_WITHOUT}", fault.code) from None
    tts = models[1] if found.tts else ""
    return Chosen(models[0], tts, repository, _environment(models[0], tts, repository))


def _environment(asr: str, tts: str, repository: Path) -> dict[str, str]:
    repositories = [str(one) for one in load_settings().triton.repositories]
    if str(repository) not in repositories:
        repositories.append(str(repository))
    chosen = {
        "PARLEY_TRITON__REPOSITORIES": ",".join(repositories),
        "PARLEY_MODELS__ASR": asr,
        "PARLEY_ASR__MODEL": asr,
    }
    return chosen | ({"PARLEY_MODELS__TTS": tts, "PARLEY_TTS__MODEL": tts} if tts else {})


def _front(brought: Brought, kind: str) -> str:
    """The model that a session uses: the others are its graphs. Raises: Fault."""
    for name in brought.models:
        if name.startswith(f"{kind}_"):
            return name
    raise Fault(f"{brought.path} holds nothing of the kind {kind}_* that a session could use")


def _untested(*entries: Entry) -> str:
    return "" if all(entry.tested for entry in entries) else "; untested: nobody has run them with Parley yet"
