"""How a front runs its graphs: itself, with ONNX Runtime, or by asking its own server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph, from_json

Array = NDArray[Any]


class GraphError(Exception):
    """A graph that is not there or fails. `str()` is a sentence for who runs the model."""


class LoadedGraph(Protocol):
    """Ready to run, in any thread."""

    spec: Graph

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Blocks. Arrays are batch-first where the graph has a batch dimension; states are among them.

        outputs: names wanted; all when empty. Raises: GraphError.
        """
        ...


class LocalGraph:
    """ONNX Runtime in this process."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """folder: of the graph's model in the repository. Raises: GraphError."""
        import onnxruntime  # only where a graph is loaded: the description alone needs none

        self.spec = read_spec(folder)
        path = _newest(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads must not spin: the models of one machine share its cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise GraphError(f"{path} does not load: {_first_line(error)}") from None
        self._inputs = frozenset(tensor.name for tensor in self._session.get_inputs())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        names = list(outputs) or self.spec.output_names
        try:
            made = self._session.run(names, {k: v for k, v in feeds.items() if k in self._inputs})
        except Exception as error:
            raise GraphError(f"graph {self.spec.name} failed: {_first_line(error)}") from None
        return dict(zip(names, made, strict=True))


class ServedGraph:
    """A model of the server that this front runs in (business logic scripting): ONNX, or a TensorRT plan."""

    def __init__(self, folder: Path) -> None:
        """folder: where its graph.json lies; the model has the folder's name. Raises: GraphError."""
        import triton_python_backend_utils as pb  # there only inside Triton

        self._pb = pb
        self._model = folder.name
        if not pb.is_model_ready(model_name=self._model):
            # A server that loads all its models at once may do so in any order.
            pb.Logger.log_warn(
                f"{self._model} is not loaded yet, and this front asks its server for it (graphs_by: triton): "
                "name it in the parameter needs_models, and Parley loads it first"
            )
        self.spec = read_spec(folder)
        self._scalars = {t.name for t in (*self.spec.inputs, *self.spec.outputs) if not t.dims}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        names = list(outputs) or self.spec.output_names
        tensors = [
            self._pb.Tensor(name, np.ascontiguousarray(v.reshape(-1, 1) if name in self._scalars else v))
            for name, v in feeds.items()
        ]
        request = self._pb.InferenceRequest(
            model_name=self._model, requested_output_names=names, inputs=tensors
        )
        response = request.exec()
        if response.has_error():
            raise GraphError(
                f"{self._model} failed: {response.error().message().rstrip('.')}; with `graphs_by: triton` a model "
                f"needs its graphs loaded in the same server: parley models load {self._model}"
            )
        made = {tensor.name(): _array(tensor) for tensor in response.output_tensors()}
        return {name: made[name].reshape(-1) if name in self._scalars else made[name] for name in names}


def read_spec(folder: Path) -> Graph:
    """Raises: GraphError."""
    try:
        return from_json((folder / "graph.json").read_text("utf-8"))
    except OSError:
        raise GraphError(
            f"there is no {folder}/graph.json: a model and its graphs lie beside each other in one repository"
        ) from None
    except ValueError as error:
        raise GraphError(f"{folder}/graph.json: {error}") from None


def _newest(folder: Path) -> Path:
    versions = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdecimal())
    for _, version in reversed(versions):
        for name in ("model.onnx", "model.ort"):
            if (version / name).exists():
                return version / name
    raise GraphError(f"{folder} holds neither model.onnx nor model.ort in a version folder")


def _array(tensor: Any) -> Array:
    if tensor.is_cpu():
        found: Array = tensor.as_numpy()
        return found
    raise GraphError("a graph's output lies on the GPU: set FORCE_CPU_ONLY_INPUT_TENSORS, and outputs to CPU")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
