"""sherpa-onnx's streaming encoders as graphs of Parley: states batch first, FP32, reset by START, safely named.

What such a file has (icefall's export-onnx-streaming.py; sherpa-onnx online-zipformer2-transducer-model.cc): an
input x [N, T, mels], then states whose batch dimension N is anywhere, INT64 counters among them; outputs
encoder_out and the new states in the same order; zeros before the first chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gateway.triton.exported.description import Graph, State, Tensor
from gateway.triton.exported.reference import Feeds, Run
from parley_export.checkpoint import ExportError

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
TYPES = (*FLOATS, TensorProto.INT64)
START = "START"


@dataclass(frozen=True)
class Native:
    """A state as the file has it."""

    name: str
    output: str
    batch: int
    """Which dimension is the batch."""
    dims: tuple[int, ...]
    """The others, in order."""
    kind: int
    """Element type in ONNX's numbers."""
    state: State

    @property
    def numpy(self) -> Any:
        return helper.tensor_dtype_to_np_dtype(self.kind)

    def inward(self, value: NDArray[Any]) -> NDArray[Any]:
        """[N, …] FP32 -> as the file has it."""
        return np.moveaxis(value.reshape(len(value), *self.dims), 0, self.batch).astype(self.numpy)

    def outward(self, value: NDArray[Any]) -> NDArray[Any]:
        made = np.moveaxis(value, self.batch, 0)
        return np.ascontiguousarray(made.reshape(len(made), *self.state.dims).astype(np.float32))


def natives(model: onnx.ModelProto) -> list[Native]:
    """The states of an encoder. Raises: ExportError where a tensor is unlike what such encoders have."""
    inputs, outputs = list(model.graph.input)[1:], list(model.graph.output)[1:]
    if not inputs or len(inputs) != len(outputs):
        raise ExportError(
            f"the encoder has {len(inputs)} states in and {len(outputs)} out: it is no streaming encoder"
        )
    found = []
    for number, (entering, leaving) in enumerate(zip(inputs, outputs, strict=True)):
        shape = entering.type.tensor_type.shape.dim
        kind = entering.type.tensor_type.elem_type
        batch = [at for at, dim in enumerate(shape) if not dim.HasField("dim_value")]
        if len(batch) != 1 or kind not in TYPES:
            raise ExportError(
                f"state {entering.name} of the encoder has {len(batch)} dimensions that vary and type "
                f"{TensorProto.DataType.Name(kind)}; one, the batch, and a float or INT64 were expected"
            )
        dims = tuple(dim.dim_value for at, dim in enumerate(shape) if at != batch[0])
        # A number in front, of fixed width: no name is another's beginning.
        state = State(f"state_{number:03}_{entering.name}", f"new_{number:03}_{entering.name}", dims or (1,))
        found.append(Native(entering.name, leaving.name, batch[0], dims, kind, state))
    return found


def encoder_graph(model: onnx.ModelProto, frames: int, width: int, max_batch: int) -> Graph:
    """frames, width: of what one chunk becomes."""
    _, chunk, mels = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    return Graph(
        name="encoder",
        inputs=(Tensor("FEATURES", "FP32", (chunk, mels)),),
        outputs=(Tensor("ENCODED", "FP32", (frames, width)),),
        states=tuple(native.state for native in natives(model)),
        start=START,
        max_batch=max_batch,
        tolerance=2e-3,
    )


def rewritten(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The encoder with the description's tensors; what is in between stays as it was."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    inner = made.graph
    before: list[onnx.NodeProto] = [
        helper.make_node(
            "Greater", [START, _constant(inner, "parley_half", np.float32(0.5))], ["parley_fresh"]
        )
    ]
    after: list[onnx.NodeProto] = []
    zero = _constant(inner, "parley_zero", np.float32(0.0))
    for native in natives(model):
        _enter(inner, native, zero, before)
        _leave(inner, native, after)
    features, encoded = model.graph.input[0], model.graph.output[0]
    before.append(
        helper.make_node("Cast", ["FEATURES"], [features.name], to=features.type.tensor_type.elem_type)
    )
    after.append(helper.make_node("Cast", [encoded.name], ["ENCODED"], to=TensorProto.FLOAT))
    _replace(inner, before, after, graph)
    return made


def renamed(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """A graph without states under the description's names, tensor by tensor in order. Raises: ExportError."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    inner = made.graph
    if len(inner.input) != len(graph.inputs) or len(inner.output) != len(graph.outputs):
        raise ExportError(f"the {graph.name} has other tensors than sherpa-onnx's have")
    pairs = zip(graph.inputs, inner.input, strict=True)
    before = [helper.make_node("Identity", [new.name], [old.name]) for new, old in pairs]
    pairs = zip(graph.outputs, inner.output, strict=True)
    after = [helper.make_node("Identity", [old.name], [new.name]) for new, old in pairs]
    _replace(inner, before, after, graph)
    return made


def native_run(model: onnx.ModelProto, graph: Graph, run: Run) -> Run:
    """The description's feeds put to an encoder in the file's own layout; `run` takes and gives its own names."""
    states = natives(model)
    features, encoded = model.graph.input[0].name, model.graph.output[0].name

    def adapted(feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        fresh = feeds[START][:, 0] > 0.5
        given = {features: feeds["FEATURES"]}
        for native in states:
            value = feeds[native.state.input].copy()
            value[fresh] = 0.0
            given[native.name] = native.inward(value)
        made = run(given)
        return {"ENCODED": np.asarray(made[encoded], np.float32)} | {
            native.state.output: native.outward(made[native.output]) for native in states
        }

    return adapted


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def read(path: Path) -> onnx.ModelProto:
    """Raises: ExportError."""
    try:
        return onnx.load(str(path))
    except Exception as error:
        raise ExportError(f"{path} is no ONNX file that can be read: {error}") from None


def _enter(inner: onnx.GraphProto, native: Native, zero: str, nodes: list[onnx.NodeProto]) -> None:
    """state -> zeros where it starts -> the file's own place of the batch -> its own type."""
    name, rank = native.state.input, len(native.state.dims) + 1
    ones = _constant(inner, f"parley_ones_{rank}", np.array([-1] + [1] * (rank - 1), np.int64))
    nodes.append(helper.make_node("Reshape", ["parley_fresh", ones], [f"{name}_fresh"]))
    nodes.append(helper.make_node("Where", [f"{name}_fresh", zero, name], [f"{name}_held"]))
    value = f"{name}_held"
    if not native.dims:
        flat = _constant(inner, "parley_flat", np.array([-1], np.int64))
        nodes.append(helper.make_node("Reshape", [value, flat], [f"{name}_placed"]))
    else:
        order = list(range(1, rank))
        order.insert(native.batch, 0)
        nodes.append(helper.make_node("Transpose", [value], [f"{name}_placed"], perm=order))
    nodes.append(helper.make_node("Cast", [f"{name}_placed"], [native.name], to=native.kind))


def _leave(inner: onnx.GraphProto, native: Native, nodes: list[onnx.NodeProto]) -> None:
    name = native.state.output
    nodes.append(helper.make_node("Cast", [native.output], [f"{name}_float"], to=TensorProto.FLOAT))
    if not native.dims:
        column = _constant(inner, "parley_column", np.array([-1, 1], np.int64))
        nodes.append(helper.make_node("Reshape", [f"{name}_float", column], [name]))
    else:
        order = [native.batch, *(at for at in range(len(native.dims) + 1) if at != native.batch)]
        nodes.append(helper.make_node("Transpose", [f"{name}_float"], [name], perm=order))


def _constant(inner: onnx.GraphProto, name: str, value: Any) -> str:
    if name not in {one.name for one in inner.initializer}:
        inner.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _replace(
    inner: onnx.GraphProto, before: list[onnx.NodeProto], after: list[onnx.NodeProto], graph: Graph
) -> None:
    nodes = list(inner.node)
    del inner.node[:], inner.input[:], inner.output[:], inner.value_info[:]
    inner.node.extend([*before, *nodes, *after])
    kinds = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}
    for tensors, place in ((graph.all_inputs(), inner.input), (graph.all_outputs(), inner.output)):
        place.extend(
            helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], ["N", *tensor.dims])
            for tensor in tensors
        )
