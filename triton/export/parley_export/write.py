"""An export becomes model folders: complete, or not there at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.triton.exported import description, reference
from gateway.triton.exported.pbtxt import IMPLICIT, explicit_config, front_config, implicit_config
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.onnx_graph import write_graph

TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
UNKNOWN = "LicenseRef-unknown"
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
        work = Path(tempfile.mkdtemp(prefix=".export-", dir=repository))
    except OSError as error:
        raise ExportError(f"cannot write into {repository}: {error.strerror or error}") from None
    try:
        proved: dict[str, Any] = {}
        for one in exported.graphs:
            say(f"graph {one.graph.name}")
            folder = names[one.graph.name]
            proved[one.graph.name] = _write_graph(one, work / folder, folder, exported)
        _write_front(exported, checkpoint, work / front, front, names)
        _write_provenance(exported, checkpoint, work / front, work, proved)
        # The front last: who finds it there finds its graphs too.
        _put(work, repository, [*names.values(), front])
        return [repository / made for made in (front, *names.values())]
    except OSError as error:
        raise ExportError(f"cannot write into {repository}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_graph(one: GraphExport, folder: Path, name: str, exported: Exported) -> dict[str, Any]:
    version = folder / "1"
    version.mkdir(parents=True)
    graph = one.graph
    cases, rows = write_graph(one, version)
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
    (folder / "LICENSE").write_text(exported.license_text or f"{exported.license or UNKNOWN}\n", "utf-8")
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
        "license": exported.license or UNKNOWN,
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
    exported: Exported, checkpoint: Checkpoint, folder: Path, work: Path, proved: Mapping[str, Any]
) -> None:
    written = sorted(path for path in work.rglob("*") if path.is_file())
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
    }
    (folder / "provenance.json").write_text(json.dumps(told, indent=1), "utf-8")


def _check_free(place: Path) -> None:
    """Raises: ExportError where something lies that no export made."""
    if place.exists() and not any((place / mark).exists() for mark in ("graph.json", "provenance.json")):
        raise ExportError(f"{place} is there and was not made by an export: choose another --name")


def _put(work: Path, repository: Path, names: Sequence[str]) -> None:
    """All of them, or, where that fails in the middle, what was there before."""
    done: list[str] = []
    try:
        for name in names:
            done.append(name)
            if (repository / name).exists():
                os.rename(repository / name, work / f"{name}.old")
            os.rename(work / name, repository / name)
    except BaseException:
        for name in done:
            if not (work / name).exists():
                os.rename(repository / name, work / name)
            if (work / f"{name}.old").exists():
                os.rename(work / f"{name}.old", repository / name)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
