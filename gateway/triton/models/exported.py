"""What stands in the model.py of every exported model: its folder is read, and its kind's code loaded."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
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
        self.front: dict[str, Any] = self.read_json("front.json")

    def path(self, name: str) -> Path:
        return self.version / name

    def read_json(self, name: str) -> Any:
        """Raises: GraphError."""
        try:
            return json.loads(self.path(name).read_text("utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise GraphError(f"{self.path(name)} cannot be read: {error}") from None

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
            kind = importlib.import_module(f"gateway.triton.models.asr.{folder.front['kind']}")
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
        kind = importlib.import_module(f"gateway.triton.models.tts.{folder.front['kind']}")
        self._speech = SpeechModel(args, lambda: kind.load(folder))

    def execute(self, requests: list[Any]) -> None:
        self._speech.execute(requests)

    def finalize(self) -> None:
        self._speech.finalize()
