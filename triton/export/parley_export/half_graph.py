"""A graph with its nodes in half precision but for those that stay: casts where one kind meets the other.

onnxruntime's own conversion narrows every tensor between two FP32 nodes and widens it again, and makes casts of one
name for two of them; with many nodes kept neither will do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

ALWAYS_WHOLE = frozenset({
    "Range", "CumSum", "Min", "Max", "TopK", "NonMaxSuppression", "OneHot", "EyeLike", "Multinomial", "Bernoulli",
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Resize", "Upsample", "RoiAlign",
    "STFT", "DFT", "MelWeightMatrix", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
"""Operators that no half precision is defined for, or not everywhere."""
SMALLEST, LARGEST = 5.97e-8, 65504.0
"""Of what FP16 holds: what is beyond is put there, so that nothing becomes zero or infinite."""


def prepare(model: Any) -> None:
    """Constant nodes become initialisers and every node gets a name. Shapes have been inferred."""
    nodes = []
    for number, node in enumerate(model.graph.node):
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            continue
        node.name = f"{node.op_type}_{number}"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def types_of(graph: Any) -> dict[str, int]:
    """Element type by tensor, as far as it is known."""
    values = (*graph.value_info, *graph.input, *graph.output)
    known = {one.name: one.type.tensor_type.elem_type for one in values}
    return known | {one.name: one.data_type for one in graph.initializer}


def in_half(prepared: Any, kept: Collection[int]) -> Any:
    """A copy of a prepared model with all nodes but these (by number) in FP16; inputs and outputs stay FP32."""
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    _Conversion(model.graph).run(kept)
    return model


class _Conversion:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.types = types_of(graph)
        self.weights = {one.name: one for one in graph.initializer}
        self.outputs = {one.name for one in graph.output}
        self.narrow: set[str] = set()
        """Tensors that a node in half precision makes."""
        self.nodes: list[Any] = []
        self.there: set[str] = set()
        self.made: list[Any] = []
        """Weights in half precision."""

    def run(self, kept: Collection[int]) -> None:
        for number, node in enumerate(self.graph.node):
            whole = number in kept or node.op_type in ALWAYS_WHOLE or any(_inner(node))
            for graph in _inner(node):  # takes tensors from outside by their own names
                for name in _names(graph):
                    if name in self.narrow:
                        self._cast(self._half(name), name, TensorProto.FLOAT)
            for place, name in enumerate(node.input):
                if name and self.types.get(name) == TensorProto.FLOAT:
                    node.input[place] = self._whole_input(name) if whole else self._half_input(name)
            self.nodes.append(node)
            if not whole:
                self._narrow_outputs(node)
        self._finish()

    def _narrow_outputs(self, node: Any) -> None:
        _halve_attributes(node)
        for place, name in enumerate(node.output):
            if name and self.types.get(name) == TensorProto.FLOAT:
                self.narrow.add(name)
                node.output[place] = self._half(name)
                self.there.add(self._half(name))
                if name in self.outputs:
                    self._cast(self._half(name), name, TensorProto.FLOAT)

    def _whole_input(self, name: str) -> str:
        if name in self.narrow:
            self._cast(self._half(name), name, TensorProto.FLOAT)
        return name

    def _half_input(self, name: str) -> str:
        half = self._half(name)
        if name in self.weights:
            if half not in self.there:
                self.made.append(numpy_helper.from_array(_halved(self.weights[name]), half))
                self.there.add(half)
        elif name not in self.narrow:
            self._cast(name, half, TensorProto.FLOAT16)
        return half

    def _cast(self, source: str, target: str, to: int) -> None:
        if target not in self.there:
            self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast {target}", to=to))
            self.there.add(target)

    @staticmethod
    def _half(name: str) -> str:
        return f"{name}.fp16"

    def _finish(self) -> None:
        graph = self.graph
        used = {name for node in self.nodes for name in node.input} | self.outputs
        used |= {name for node in self.nodes for inner in _inner(node) for name in _names(inner)}
        weights = [one for one in graph.initializer if one.name in used] + self.made
        for field, values in ((graph.node, self.nodes), (graph.initializer, weights), (graph.value_info, [])):
            copies = list(values)
            del field[:]
            field.extend(copies)


def _inner(node: Any) -> Iterator[Any]:
    for one in node.attribute:
        if one.type == AttributeProto.GRAPH:
            yield one.g
        yield from one.graphs


def _names(graph: Any) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for inner in _inner(node):
            yield from _names(inner)
    yield from (one.name for one in graph.output)


def _halve_attributes(node: Any) -> None:
    for one in node.attribute:
        if node.op_type == "Cast" and one.name == "to" and one.i == TensorProto.FLOAT:
            one.i = TensorProto.FLOAT16
        elif one.type == AttributeProto.TENSOR and one.t.data_type == TensorProto.FLOAT:
            one.t.CopyFrom(numpy_helper.from_array(_halved(one.t), one.t.name))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(helper.make_attribute("value", zero))


def _halved(tensor: Any) -> Any:
    """As numpy; zero and infinity stay what they are, and nothing else becomes one of them."""
    values = numpy_helper.to_array(tensor)
    size = np.where(np.isfinite(values), np.clip(np.abs(values), SMALLEST, LARGEST), np.abs(values))
    return np.where(values == 0, values, np.copysign(size, values)).astype(np.float16)


def half_part(model: Any) -> float:
    """Of all floats among the weights, those in half precision: 0 to 1."""
    of = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for one in model.graph.initializer:
        if one.data_type in of:
            of[one.data_type] += int(np.prod(one.dims))
    return of[TensorProto.FLOAT16] / max(1, sum(of.values()))
