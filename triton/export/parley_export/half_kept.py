"""Which nodes of a graph stay in FP32 when the rest of it becomes FP16.

Half precision has 11 bits and ends at 65504: features and weights stand that, but numbers that count something,
sums, and what is decided by a comparison do not. Which those are is read off the graph's structure alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from parley_export.half_graph import types_of

HEAVY = frozenset(
    {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Attention", "Gather"}
)
"""Operators with weights of their own: what FP16 is for."""
SUMS = frozenset(
    {
        "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization",
        "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp",
        "GlobalAveragePool", "CumSum", "Range", "Resize", "Sqrt", "Reciprocal", "Exp", "Log", "Softplus",
    }
)  # fmt: skip
"""Operators whose sums, powers or quotients leave what half precision can hold."""
COMPARISONS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"})
ROUNDED = frozenset({"Floor", "Ceil", "Round"})
WAVES = frozenset({"Sin", "Cos"})
BOUNDED = frozenset({"Softmax", "Sigmoid", "Tanh", "ArgMax", "TopK", *WAVES})
"""However large what goes in, what comes out is not."""
LARGEST, LEAST = 1e4, 6.2e-5
"""Of a constant in half precision: beyond, its neighbours are 8 apart; below, its bits go."""
_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8)
_CONSTANT = 16
"""So many elements at most: more of them are weights, whose single values do not matter."""


def kept_nodes(model: Any) -> set[int]:
    """Numbers of the nodes that stay in FP32. The model's shapes are inferred, its constants are initialisers."""
    return _Graph(model.graph).kept()


class _Graph:
    def __init__(self, graph: Any) -> None:
        self.nodes = list(graph.node)
        self.constants = {one.name: one for one in graph.initializer}
        self.producer = {
            name: number for number, node in enumerate(self.nodes) for name in node.output if name
        }
        self.types = types_of(graph)

    def kept(self) -> set[int]:
        counts, counted = self._counts()
        kept = {number for number, node in enumerate(self.nodes) if self._sums(node)}
        kept |= counts | counted | self._masks() | self._decisions() | self._positions(counts)
        return self._closed(kept)

    def _floats(self, node: Any) -> list[str]:
        """What goes into it that is neither an integer nor a constant."""
        return [
            name
            for name in node.input
            if name and name not in self.constants and self.types.get(name) == TensorProto.FLOAT
        ]

    def _sums(self, node: Any) -> bool:
        squares = node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])
        if squares:  # of a sine they are small
            made = self.producer.get(node.input[0])
            return made is None or self.nodes[made].op_type not in BOUNDED
        return node.op_type in SUMS

    def _counts(self) -> tuple[set[int], set[int]]:
        """Lengths, positions and the like, made from integers; and where they meet other numbers."""
        counts: set[int] = set()
        met: set[int] = set()
        for number, node in enumerate(self.nodes):
            first = self.types.get(node.input[0]) if node.input else None
            if node.op_type == "Range" or (node.op_type == "Cast" and first in _INTEGERS):
                counts.add(number)
                continue
            floats = self._floats(node)
            are_counts = [
                (made := self.producer.get(name)) is not None
                and made in counts
                and self.nodes[made].op_type not in BOUNDED
                for name in floats
            ]
            if floats and all(are_counts):
                counts.add(number)
            elif any(are_counts):
                met.add(number)
        return counts, met

    def _masks(self) -> set[int]:
        """Where constants go in that half precision cannot hold, and what such a large one then goes through."""
        kept: set[int] = set()
        large: set[int] = set()
        for number, node in enumerate(self.nodes):
            values = [self.constants[name] for name in node.input if name in self.constants]
            values += [one.t for one in node.attribute if one.name == "value"]
            if node.op_type not in HEAVY:
                kept |= {number} if any(_least(one) < LEAST for one in values) else set()
                if any(_largest(one) > LARGEST for one in values):
                    large.add(number)
            if node.op_type not in HEAVY and any(
                self.producer.get(name) in large and self.nodes[self.producer[name]].op_type not in BOUNDED
                for name in self._floats(node)
            ):
                large.add(number)
        return kept | large

    def _decisions(self) -> set[int]:
        """Whatever becomes an integer, with all that it comes from; what is compared, back to the weights."""
        whole, near = set(), set()
        for number, node in enumerate(self.nodes):
            if not self._floats(node):
                continue
            if node.op_type in ROUNDED or (node.op_type == "Cast" and self._made(node) in _INTEGERS):
                whole.add(number)
            elif node.op_type in COMPARISONS:
                near.add(number)
        return self._origin(whole) | self._origin(near, lambda node: node.op_type in HEAVY)

    def _positions(self, counts: set[int]) -> set[int]:
        """Angles that are counted, back to the weights; angles that are summed up, with all that they come from."""
        found: set[int] = set()
        for number, node in enumerate(self.nodes):
            if node.op_type not in WAVES:
                continue
            origin = self._origin({number}, lambda node: node.op_type in HEAVY)
            if any(self.nodes[one].op_type == "CumSum" for one in origin):
                found |= self._origin({number})
            elif origin & counts:
                found |= origin
        return found

    def _origin(self, ends: Iterable[int], stop: Callable[[Any], bool] = lambda _: False) -> set[int]:
        """These nodes and all before them, up to where it stops."""
        found: set[int] = set()
        waiting = list(ends)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            before = {self.producer[name] for name in self.nodes[number].input if name in self.producer}
            waiting += [one for one in before if not stop(self.nodes[one])]
        return found

    def _closed(self, kept: set[int]) -> set[int]:
        """With the nodes after them that nothing else goes into: half precision begins at the next weights."""
        kept = set(kept)
        for number, node in enumerate(self.nodes):
            floats = self._floats(node)
            if (
                floats
                and node.op_type not in HEAVY
                and all(self.producer.get(name) in kept for name in floats)
            ):
                kept.add(number)
        return kept

    def _made(self, node: Any) -> int:
        return int(next((one.i for one in node.attribute if one.name == "to"), TensorProto.FLOAT))


def _values(constant: Any) -> Any:
    """Finite ones but zero, without sign; none of weights."""
    if constant.data_type != TensorProto.FLOAT or int(np.prod(constant.dims)) > _CONSTANT:
        return np.zeros(0)
    values = np.abs(numpy_helper.to_array(constant).astype(np.float64))
    return values[np.isfinite(values) & (values > 0)]


def _largest(constant: Any) -> float:
    return float(_values(constant).max(initial=0.0))


def _least(constant: Any) -> float:
    return float(_values(constant).min(initial=np.inf))
