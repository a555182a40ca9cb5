"""What stands in the model.py of every exported model: its folder is read, and its kind's code loaded."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gateway.triton.models.graphs import GraphError, LoadedGraph, LocalGraph, ServedGraph
from gateway.triton.models.process import parameter

LOAD_S = 120.0
GRAPHS = ("local", "triton")


class Folder:
    """The version folder of an exported model, as its front sees it."""

    def __init__(self, version: Path, config: Mapping[str, Any] | None = None) -> None:
        """version: …/NAME/1; config: the model's configuration as Triton gives it.

        Raises: GraphError when there is no front.json that can be read.
        """
        self.version = version
        self._config = config or {}
        self.front = read_front(version)

    def path(self, name: str) -> Path:
        return self.version / name

    def read_json(self, name: str) -> Any:
        """Raises: GraphError."""
        return _read_json(self.path(name))

    def parameter(self, name: str, default: str = "") -> str:
        """Of config.pbtxt, else of front.json."""
        said = parameter(self._config, name)
        return said or str(self.front.get(name, default))

    def graph(self, name: str) -> LoadedGraph:
        """A graph of this model, ready to run. Raises: GraphError."""
        model = self.front["graphs"].get(name)
        if model is None:
            raise GraphError(f"{self.version}/front.json names no graph {name}")
        where = self.version.parent.parent / model
        how = self.parameter("graphs_by", GRAPHS[0])
        if how not in GRAPHS:
            raise GraphError(f'parameter graphs_by is "{how}"; it may be {" or ".join(GRAPHS)}')
        return (
            LocalGraph(where, int(self.parameter("threads", "1"))) if how == "local" else ServedGraph(where)
        )


def read_front(version: Path) -> dict[str, Any]:
    """front.json of a version folder. Raises: GraphError."""
    front = _read_json(version / "front.json")
    if not isinstance(front, dict):
        raise GraphError(f"{version}/front.json describes no model: export it again")
    return front


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor text
        raise GraphError(f"{path} cannot be read: {error}") from None


def code_of(family: str, kind: object) -> ModuleType:
    """The module that runs models of this kind; family: asr or tts. Raises: GraphError."""
    name = f"gateway.triton.models.{family}.{kind}"
    if not isinstance(kind, str) or not kind.isidentifier() or importlib.util.find_spec(name) is None:
        raise GraphError(f'front.json: kind "{kind}" is none that this Parley runs: export the model again')
    return importlib.import_module(name)


def open_folder(args: Mapping[str, str]) -> Folder:
    """args: as Triton hands them to `initialize`. Raises: GraphError."""
    return Folder(Path(args["model_repository"]) / args["model_version"], json.loads(args["model_config"]))


class ExportedAsr:
    """`TritonPythonModel` of an exported recogniser."""

    def initialize(self, args: dict[str, str]) -> None:
        from gateway.triton.models.asr.batching import BatchWorkers
        from gateway.triton.models.recognition import RecogniserModel

        def load(_: Mapping[str, Any]) -> BatchWorkers:
            folder = open_folder(args)
            kind = code_of("asr", folder.front.get("kind"))
            return BatchWorkers(kind.load(folder), int(folder.parameter("max_streams", "64")))

        self._recogniser = RecogniserModel(args, load, load_s=LOAD_S)

    def execute(self, requests: list[Any]) -> None:
        self._recogniser.execute(requests)

    def finalize(self) -> None:
        self._recogniser.finalize()


class ExportedTts:
    """`TritonPythonModel` of an exported voice."""

    def initialize(self, args: dict[str, str]) -> None:
        from gateway.triton.models.speech import SpeechModel

        folder = open_folder(args)
        kind = code_of("tts", folder.front.get("kind"))
        self._speech = SpeechModel(args, lambda: kind.load(folder))

    def execute(self, requests: list[Any]) -> None:
        self._speech.execute(requests)

    def finalize(self) -> None:
        self._speech.finalize()
