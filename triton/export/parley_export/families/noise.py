"""Ready-made graphs that draw noise: each such node becomes an input of the graph.

How much noise a node needs may depend on data (a prior as long as the durations say). So an input is flat, as
long as the caller likes; the graph takes what it needs from its beginning, in the order of its tensor, and says
in an output how much that was. Where it was given less, zeros stand for the rest: the caller sees it by that
output, and asks again with more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from parley_export.checkpoint import ExportError

NORMAL, UNIFORM = ("RandomNormal", "RandomNormalLike"), ("RandomUniform", "RandomUniformLike")
DRAWING = (*NORMAL, *UNIFORM)
OTHERS = ("Bernoulli", "Multinomial")
LEAST_OPSET = 13
"""From here on Slice, ReduceProd and Max take what is written here."""


@dataclass(frozen=True)
class Noise:
    """One input that was a node: float32 [n], standard normal or uniform in [0, 1)."""

    name: str
    size: str
    """An output of the graph, INT64 [1]: how many values it takes."""
    uniform: bool
    drawn: str
    """The tensor that the node made, by its old name: first + scale · noise."""
    first: float = 0.0
    scale: float = 1.0


def noise_to_inputs(model: Any) -> tuple[Any, list[Noise]]:
    """A copy of an onnx.ModelProto that draws nothing, and its new inputs (noise_0, noise_1, … in the graph's order).

    Raises: ExportError where a node draws inside a branch or a loop, or in another way than these.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    _check(made)
    types = _types(made) if any(n.op_type in DRAWING for n in graph.node) else {}
    taken = _names(graph)
    nodes: list[Any] = []
    found: list[Any] = []
    for node in graph.node:
        if node.op_type not in DRAWING:
            nodes.append(node)
            continue
        name = next(
            n
            for n in (f"noise_{k}" for k in range(len(found), len(taken) + len(found) + 1))
            if n not in taken
        )
        taken |= {name, f"{name}_size"}
        noise = _described(node, name)
        nodes += _instead(node, noise, types)
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_values"]))
        graph.output.append(helper.make_tensor_value_info(noise.size, TensorProto.INT64, [1]))
        found.append(noise)
    del graph.node[:]
    graph.node.extend(nodes)
    return made, found


def exposing(model: Any, tensors: Mapping[str, int] | list[str]) -> Any:
    """A copy that gives these inner tensors as further outputs: what a graph drew, or where it is cut.

    tensors: names; float32, or with their TensorProto types.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    there = {value.name for value in made.graph.output}
    types = tensors if isinstance(tensors, Mapping) else dict.fromkeys(tensors, TensorProto.FLOAT)
    for name, kind in types.items():
        if name not in there:
            made.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return made


def _check(model: Any) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise ExportError(
            f"the graph is of opset {opset}; {LEAST_OPSET} or later is needed: convert it first"
        )
    for node in model.graph.node:
        if node.op_type in OTHERS:
            raise ExportError(f"the graph draws by {node.op_type}, which cannot become an input")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if _draws(inner):
                    raise ExportError(
                        f"the graph draws noise inside {node.op_type} {node.name}, where it cannot become an input"
                    )


def _draws(graph: Any) -> bool:
    return any(
        node.op_type in (*DRAWING, *OTHERS)
        or any(_draws(inner) for a in node.attribute for inner in (a.g, *a.graphs))
        for node in graph.node
    )


def _described(node: Any, name: str) -> Noise:
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    uniform = node.op_type in UNIFORM
    if uniform:
        first, scale = told.get("low", 0.0), told.get("high", 1.0) - told.get("low", 0.0)
    else:
        first, scale = told.get("mean", 0.0), told.get("scale", 1.0)
    return Noise(name, f"{name}_size", uniform, node.output[0], first, scale)


def _instead(node: Any, noise: Noise, types: Mapping[str, int]) -> list[Any]:
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    own = f"{noise.name}/"
    nodes: list[Any] = []

    def add(op: str, *inputs: str, to: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [to], name=f"{own}{op}_{len(nodes)}", **attributes))
        return to

    def constant(values: NDArray[Any], to: str) -> str:
        return add("Constant", to=own + to, value=numpy_helper.from_array(values))

    if node.op_type.endswith("Like"):
        shape = add("Shape", node.input[0], to=own + "shape")
        kind = told.get("dtype", types.get(node.input[0], TensorProto.FLOAT))
    else:
        shape = constant(np.array(told["shape"], np.int64), "shape")
        kind = told.get("dtype", TensorProto.FLOAT)
    zero = constant(np.zeros(1, np.int64), "zero")
    size = add("ReduceProd", shape, to=noise.size, keepdims=1)
    given = add("Shape", noise.name, to=own + "given")
    lacking = add("Max", add("Sub", size, given, to=own + "difference"), zero, to=own + "lacking")
    rest = add(
        "ConstantOfShape", lacking, to=own + "rest", value=numpy_helper.from_array(np.zeros(1, np.float32))
    )
    enough = add("Concat", noise.name, rest, to=own + "enough", axis=0)
    values = add("Slice", enough, zero, size, to=own + "values")
    shaped = add("Reshape", values, shape, to=own + "shaped")
    if noise.scale != 1.0:
        shaped = add("Mul", shaped, constant(np.array(noise.scale, np.float32), "scale"), to=own + "scaled")
    if noise.first != 0.0:
        shaped = add("Add", shaped, constant(np.array(noise.first, np.float32), "first"), to=own + "moved")
    nodes.append(helper.make_node("Cast", [shaped], [node.output[0]], name=own + "Cast", to=kind))
    return nodes


def _types(model: Any) -> dict[str, int]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # an operator that it does not know; what it would have told is FP32 in all voices seen
        inferred = model.graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {weight.name: weight.data_type for weight in model.graph.initializer}
    return {name: kind for name, kind in types.items() if kind}


def _names(graph: Any) -> set[str]:
    return {value.name for value in (*graph.input, *graph.output, *graph.initializer)} | {
        name for node in graph.node for name in (*node.input, *node.output)
    }
