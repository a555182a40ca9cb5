"""Ready Triton model folders, put into a repository: checked as a whole before the first of them appears."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.triton.catalogue.folder import CONFIG, read_local
from gateway.triton.catalogue.validate import problem, validate
from gateway.triton.exported.staging import NAME, staging
from gateway.triton.pulling.cache import RECORD, write_json
from gateway.triton.pulling.errors import PullError

PROVENANCE = "provenance.json"
FRONT, GRAPH = "front.json", "graph.json"
STAGING = ".pulling-"


def model_folders(content: Path) -> list[Path]:
    """The Triton models of a folder: itself, or those in it; none when it is a checkpoint."""
    if (content / CONFIG).is_file():
        return [content]
    return sorted(one for one in content.iterdir() if one.is_dir() and (one / CONFIG).is_file())


def place(
    folders: Sequence[Path], repository: Path, *, name: str, fallback: str, record: Mapping[str, Any]
) -> list[str]:
    """Copies them, a graph before what uses it; returns their names. Blocks.

    name: for a single model, in place of its own. fallback: of a single model that says none.
    record: goes into each one's provenance.json as `pulled`. What is there already with the same record stays.

    Raises: PullError; then none of them is in the repository.
    """
    if name and len(folders) != 1:
        raise PullError(f"it holds {len(folders)} models, so one name will not do: pull it without --name")
    names = {one: name or _own_name(one, fallback if len(folders) == 1 else "") for one in folders}
    for chosen in names.values():
        if list(names.values()).count(chosen) > 1:
            raise PullError(f"it holds two models called {chosen}: rename one, and its folder, before")
        if not NAME.fullmatch(chosen):
            raise PullError(f"{chosen!r} is no name for a model; give one with --name")
    if not repository.is_dir():
        raise PullError(f"model repository {repository} does not exist: create it, or name another with --to")
    new = {one: its for one, its in names.items() if not _is_there(repository / its, record)}
    placed: list[Path] = []
    try:
        with staging(repository, STAGING) as work:
            for one, its in new.items():
                shutil.copytree(one, work / its, ignore=shutil.ignore_patterns(RECORD, ".git", "*.lock"))
                _rename(work / its, its)
                _add_provenance(work / its, record)
            _check(work)
            _check_graphs([work / its for its in new.values()], (work, repository))
            for its in sorted(new.values(), key=lambda its: (not its.startswith("graph_"), its)):
                os.rename(work / its, repository / its)
                placed.append(repository / its)
    except BaseException as error:
        for one in placed:
            shutil.rmtree(one, ignore_errors=True)
        if isinstance(error, (OSError, shutil.Error)):
            why = getattr(error, "strerror", None) or str(error)
            raise PullError(f"cannot put it into {repository}: {why.lower()}") from None
        raise
    _check_graphs([repository / its for its in names.values()], (repository,))
    return sorted(names.values())


def brings_code(folders: Sequence[Path]) -> list[str]:
    """Python files that Triton would run, relative to the model folders."""
    return sorted(f"{one.name}/{path.relative_to(one)}" for one in folders for path in one.rglob("*.py"))


def _own_name(folder: Path, fallback: str) -> str:
    found = re.search(r'^\s*name\s*:\s*"([^"]+)"', _config(folder), re.MULTILINE)
    return found[1] if found else (fallback or folder.name)


def _rename(folder: Path, name: str) -> None:
    """config.pbtxt names the folder it is in: Triton wants that."""
    text = _config(folder)
    found = re.search(r'^(\s*name\s*:\s*)"[^"]*"', text, re.MULTILINE)
    if found is not None and found[0] != f'{found[1]}"{name}"':
        text = text[: found.start()] + f'{found[1]}"{name}"' + text[found.end() :]
        (folder / CONFIG).write_text(text, "utf-8")


def _config(folder: Path) -> str:
    return (folder / CONFIG).read_text("utf-8", "replace")


def _is_there(target: Path, record: Mapping[str, Any]) -> bool:
    """Raises: PullError for another model of that name."""
    if not target.exists():
        return False
    try:
        told = json.loads((target / PROVENANCE).read_text("utf-8"))
        known = told["pulled"]["files"] == record["files"] and told["pulled"]["source"] == record["source"]
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if known:
        return True
    raise PullError(f"{target} is there already: remove it, or give the new one another name with --name")


def _add_provenance(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder / PROVENANCE
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        told = {}
    write_json(path, {**(told if isinstance(told, dict) else {}), "pulled": dict(record)})


def _check(work: Path) -> None:
    """Raises: PullError for what Triton could not load."""
    for folder in read_local(work):
        if why := problem(validate(folder)):
            raise PullError(
                f"what was pulled is no model that Triton could load: {why.removeprefix(str(work) + '/')}"
            )


def _check_graphs(models: Sequence[Path], places: Sequence[Path]) -> None:
    """Raises: PullError for an exported model of which a graph that its front names is in none of the places."""
    for model in models:
        missing = [name for name in _graphs(model) if not any(_is_graph(one / name) for one in places)]
        if missing:
            raise PullError(
                f"{model.name} is not whole: it lacks {', '.join(missing)}, which it runs and which "
                f"{'is' if len(missing) == 1 else 'are'} not beside it: pull it together with its graphs, or those first"
            )


def _graphs(model: Path) -> list[str]:
    """Names of the graph models of an exported model's front. Raises: PullError."""
    named: list[str] = []
    for front in sorted(model.glob(f"*/{FRONT}")):
        try:
            named += map(str, json.loads(front.read_text("utf-8")).get("graphs", {}).values())
        except (OSError, ValueError, AttributeError) as error:
            raise PullError(f"{front.relative_to(model.parent)} cannot be read: {error}") from None
    return sorted(set(named))


def _is_graph(folder: Path) -> bool:
    """Its description, and a file in a version."""
    return (folder / GRAPH).is_file() and any(path.is_file() for path in folder.glob("[1-9]*/*"))
