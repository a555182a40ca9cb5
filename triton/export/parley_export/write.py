"""An export becomes model folders: complete, or not there at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.triton.exported import description, reference
from gateway.triton.exported.pbtxt import IMPLICIT, explicit_config, front_config, implicit_config
from gateway.triton.exported.staging import put, staging
from parley_export.checkpoint import UNKNOWN, Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.onnx_graph import write_graph

TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
STAGING = ".export-"
PROVENANCE = "provenance.json"
_MODEL = {
    "asr": "from gateway.triton.models.exported import ExportedAsr as TritonPythonModel",
    "tts": "from gateway.triton.models.exported import ExportedTts as TritonPythonModel",
}
_MODEL_PY = '''\
"""Made by `parley models export`: what it is lies in front.json, its code in Parley."""

import sys

sys.dont_write_bytecode = True  # a new file in the version folder would make Triton load the model again

{line}  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


def write(
    exported: Exported,
    checkpoint: Checkpoint,
    repository: Path,
    *,
    name: str = "",
    say: Callable[[str], None],
) -> list[Path]:
    """The folders that were written: the front first, then its graphs. An older export of the same name is replaced.

    Raises: ExportError, and then nothing has changed.
    """
    front = name or f"{exported.kind}_{exported.name}"
    names = {one.graph.name: f"graph_{front}_{one.graph.name}" for one in exported.graphs}
    for folder in (front, *names.values()):
        _check_free(repository / folder)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with staging(repository, STAGING) as work:
            proved: dict[str, Any] = {}
            for one in exported.graphs:
                say(f"graph {one.graph.name}")
                folder = names[one.graph.name]
                proved[one.graph.name] = _write_graph(one, work / folder, folder, exported)
            _write_front(exported, checkpoint, work / front, front, names)
            dropped = graphs_left(repository, front, names.values())
            _write_provenance(exported, checkpoint, work / front, work, proved, dropped)
            # The front last: who finds it there finds its graphs too.
            put(work, repository, [*names.values(), front])
            for name in dropped:
                with suppress(OSError):  # the next export of this front tries again
                    os.rename(repository / name, work / f"{name}.dropped")
                    say(f"{name} is no part of it any more: removed")
        return [repository / made for made in (front, *names.values())]
    except OSError as error:
        raise ExportError(
            f"cannot write into {repository}: {error.strerror or error}; nothing there was changed: "
            "free space or name another folder"
        ) from error


def graphs_left(repository: Path, front: str, kept: Iterable[str]) -> dict[str, str]:
    """Graphs that earlier exports of this front wrote, that it has no more, and that are as they were written: the
    SHA-256 of each one's graph.json, by name."""
    try:
        told = json.loads((repository / front / PROVENANCE).read_text("utf-8"))
        sums = dict(told["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if f"{front}/1/front.json" not in sums:
        return {}  # a copy under another name: the graphs are the other's
    written = {path.split("/")[0]: sha for path, sha in sums.items() if path.endswith("/graph.json")}
    written |= told.get("dropped") or {}
    others = _graphs_of_others(repository, front)
    return {
        name: sha
        for name, sha in sorted(written.items())
        if name not in {*kept, *others}
        and (repository / name / "graph.json").is_file()
        and _sha256(repository / name / "graph.json") == sha
    }


def _graphs_of_others(repository: Path, front: str) -> set[str]:
    found: set[str] = set()
    for path in repository.glob("*/*/front.json"):
        if path.parts[-3] != front:
            with suppress(OSError, ValueError, KeyError, AttributeError):
                found |= set(map(str, json.loads(path.read_text("utf-8"))["graphs"].values()))
    return found


def _write_graph(one: GraphExport, folder: Path, name: str, exported: Exported) -> dict[str, Any]:
    version = folder / "1"
    version.mkdir(parents=True)
    cases, rows = write_graph(one, version)
    graph = one.graph
    reference.save(folder / "reference.npz", cases)
    (folder / "graph.json").write_text(description.to_json(graph), "utf-8")
    parameters = {
        "family": "graph", "engine": exported.engine, "needs_gpu": "false", "license": exported.license,
        "intra_op_thread_count": "1",
    }  # fmt: skip
    text = explicit_config(name, graph, parameters)
    if one.filename != "model.onnx":
        text = text.replace("max_batch_size", f'default_model_filename: "{one.filename}"\nmax_batch_size', 1)
    (folder / "config.pbtxt").write_text(text, "utf-8")
    if graph.states:
        (folder / IMPLICIT).parent.mkdir()
        (folder / IMPLICIT).write_text(implicit_config(name, graph, parameters), "utf-8")
    worst = max((row.difference for row in rows), default=0.0)
    return {"compared": len(rows), "worst_difference": worst, "tolerance": graph.tolerance}


def _write_front(
    exported: Exported, checkpoint: Checkpoint, folder: Path, name: str, graphs: Mapping[str, str]
) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    license = exported.license or UNKNOWN
    unsaid = ": not stated by the checkpoint" if license == UNKNOWN else ""
    (folder / "LICENSE").write_text(exported.license_text or f"{license}{unsaid}\n", "utf-8")
    for file, content in exported.files.items():
        (version / file).parent.mkdir(parents=True, exist_ok=True)
        (version / file).write_bytes(content)
    front = {**exported.front, "graphs": dict(graphs)}
    (version / "front.json").write_text(json.dumps(front, indent=1, ensure_ascii=False), "utf-8")
    (folder / "reference").mkdir()
    reference.save_arrays(folder / "reference" / "front.npz", exported.front_reference)
    if exported.kind not in _MODEL:
        return
    (version / "model.py").write_text(_MODEL_PY.format(line=_MODEL[exported.kind]), "utf-8")
    parameters = {
        "family": exported.kind, "engine": exported.engine, **exported.parameters,
        "license": license,
    }  # fmt: skip
    parameters.setdefault("needs_gpu", "false")
    parameters.setdefault("streaming", "true")
    parameters.setdefault("tags", "cpu,streaming")
    if parameters.get("graphs_by") == "triton":
        parameters.setdefault("needs_models", ",".join(graphs.values()))
    parameters.setdefault("memory_mb", str(_memory_mb(folder.parent)))
    (folder / "config.pbtxt").write_text(
        front_config(exported.kind, name, checkpoint.source, parameters), "utf-8"
    )


def _memory_mb(work: Path) -> int:
    """A process with numpy and ONNX Runtime, and every weight once."""
    return 120 + sum(path.stat().st_size for path in work.glob("graph_*/1/*")) // (1 << 20)


def _write_provenance(
    exported: Exported,
    checkpoint: Checkpoint,
    folder: Path,
    work: Path,
    proved: Mapping[str, Any],
    dropped: Mapping[str, str],
) -> None:
    written = sorted(path for path in work.glob("*/**/*") if path.is_file())
    told = {
        "family": checkpoint.family,
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "seed": checkpoint.seed if checkpoint.is_random else None,
        "license": exported.license,
        "tools": {tool: importlib.metadata.version(tool) for tool in TOOLS}
        | {"python": platform.python_version()},
        "source_sha256": checkpoint.checksums(),
        "sha256": {str(path.relative_to(work)): _sha256(path) for path in written},
        "parity": dict(proved),
        # Removed after this was put in place; where that did not come to pass, the next export knows of them.
        "dropped": dict(dropped),
    }
    (folder / PROVENANCE).write_text(json.dumps(told, indent=1), "utf-8")


def _check_free(place: Path) -> None:
    """Raises: ExportError where something lies that no export made."""
    if place.exists() and not any((place / mark).exists() for mark in ("graph.json", PROVENANCE)):
        raise ExportError(f"{place} is there and was not made by an export: choose another --name")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
