"""Ranges of the axes that only outputs have, and whether what a graph says lies within what is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import Case, outside

MOST_VALUES = 1 << 26
"""Of one row of one tensor with every axis at its most: 256 MB, which TensorRT would set aside for a profile."""


def with_ranges(graph: Graph, cases: Sequence[Case]) -> Graph:
    """The graph, every axis of its outputs with a range: of one that neither an input nor the description has, what
    the recorded cases say where one input axis makes it longer by the same all along (a vocoder's samples).

    Raises: ValueError where no such rule fits, or a range is too wide.
    """
    known = {axis.name for axis in (*graph.axes, *graph.derived)}
    found = {
        dim: _ruled(graph, dim, cases)
        for tensor in graph.outputs
        for dim in tensor.dims
        if isinstance(dim, str) and dim not in known
    }
    whole = replace(graph, derived=(*graph.derived, *found.values()))
    for tensor in (*whole.all_inputs(), *whole.all_outputs()):
        if (most := most_values(whole, tensor)) > MOST_VALUES:
            raise ValueError(
                f"graph {graph.name}: {tensor.name} may hold {most} values with every axis at its most, more than "
                f"{MOST_VALUES}: make the range of {_widest(whole, tensor)} smaller"
            )
    for case in cases:
        for tensors, steps in ((whole.inputs, case.steps), (whole.outputs, case.expected)):
            for arrays in steps:
                for tensor in tensors:
                    if why := outside(whole, tensor, arrays.get(tensor.name)):
                        raise ValueError(f"graph {graph.name}: in case {case.name} {why}")
    return whole


def most_values(graph: Graph, tensor: Tensor) -> int:
    """Of one row, every axis at its most."""
    return math.prod(graph.axis(dim).most if isinstance(dim, str) else dim for dim in tensor.dims)


def _widest(graph: Graph, tensor: Tensor) -> str:
    return max((dim for dim in tensor.dims if isinstance(dim, str)), key=lambda dim: graph.axis(dim).most)


def _ruled(graph: Graph, dim: str, cases: Sequence[Case]) -> Axis:
    """Raises: ValueError."""
    long = [
        (feeds, _size(graph, graph.outputs, expected, dim))
        for case in cases
        for feeds, expected in zip(case.steps, case.expected, strict=True)
    ]
    for axis in graph.axes:
        points = {(x, y) for feeds, y in long if (x := _size(graph, graph.inputs, feeds, axis.name)) is not None and y is not None}  # fmt: skip
        (x0, y0), (x1, y1) = min(points, default=(0, 0)), max(points, default=(0, 0))
        if x0 == x1 or (y1 - y0) % (x1 - x0):
            continue
        slope = (y1 - y0) // (x1 - x0)
        if slope >= 0 and all(y == y0 + slope * (x - x0) for x, y in points):
            least, usual, most = (max(0, y0 + slope * (x - x0)) for x in (axis.least, axis.usual, axis.most))
            return Axis(dim, least, usual, most)
    raise ValueError(
        f"graph {graph.name}: axis {dim} of an output has no range written down, and no rule gives it"
    )


def _size(
    graph: Graph, tensors: Sequence[Tensor], arrays: Mapping[str, NDArray[Any]], dim: str
) -> int | None:
    offset = 1 if graph.max_batch else 0
    for tensor in tensors:
        if dim in tensor.dims and tensor.name in arrays:
            return int(arrays[tensor.name].shape[tensor.dims.index(dim) + offset])
    return None
