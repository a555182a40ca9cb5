"""Optimisation profiles: for every input of a graph the least, the usual and the largest shape.

An engine runs nothing outside its profiles, and TensorRT's provider in ONNX Runtime builds anew for every shape
outside them (36 to 100 s a call were measured elsewhere), so every dynamic axis has its range written down.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.triton.exported.description import Axis, Graph

Shape = tuple[int, ...]
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes with the batch dimension, by input name: (least, usual, most)."""

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def column(self, which: int) -> dict[str, Shape]:
        """0: least, 1: usual, 2: most."""
        return {name: three[which] for name, three in self.shapes.items()}


def profiles_of(graph: Graph, *, buckets: int = 1, usual_batch: int = 0) -> list[Profile]:
    """One profile, or `buckets` of them that share the range of the longest axis between them.

    usual_batch: what the engine is made fastest for; half of max_batch when 0.
    Raises: ValueError when the graph has nothing to share out, or a number makes no sense.
    """
    if buckets < 1:
        raise ValueError("at least one profile is needed")
    if buckets > 1 and not graph.axes:
        raise ValueError(f"graph {graph.name} has no dynamic axis to make {buckets} profiles of")
    most_batch = max(1, graph.max_batch)
    batch = Axis(BATCH, 1, usual_batch or max(1, most_batch // 2), most_batch)
    if not batch.least <= batch.usual <= batch.most:
        raise ValueError(f"a usual batch of {usual_batch} is not within 1 and {most_batch}")
    longest = max(graph.axes, key=lambda axis: axis.most, default=None)
    ranges = _shared_out(longest, buckets) if longest is not None else [batch]
    return [_profile(graph, batch, [part if a is longest else a for a in graph.axes]) for part in ranges]


def _profile(graph: Graph, batch: Axis, axes: Sequence[Axis]) -> Profile:
    by_name = {axis.name: axis for axis in axes}
    shapes = {}
    for tensor in graph.all_inputs():
        dims = ([batch] if graph.max_batch else []) + [
            by_name[dim] if isinstance(dim, str) else Axis("", dim, dim, dim) for dim in tensor.dims
        ]
        shapes[tensor.name] = (
            tuple(max(0, axis.least) for axis in dims),
            tuple(axis.usual for axis in dims),
            tuple(axis.most for axis in dims),
        )
    return Profile(shapes)


def _shared_out(axis: Axis, count: int) -> list[Axis]:
    """Ranges that grow by the same factor, end to end, each with its own usual length."""
    least = max(1, axis.least)
    edges = [round(least * (axis.most / least) ** (part / count)) for part in range(count + 1)]
    edges[0], edges[-1] = axis.least, axis.most
    found = []
    for low, high in itertools.pairwise(edges):
        start = low if low == axis.least else low + 1
        usual = axis.usual if start <= axis.usual <= high else (start + high) // 2
        found.append(Axis(axis.name, start, usual, high))
    if any(one.least > one.most for one in found):
        raise ValueError(f"axis {axis.name} ({axis.least} to {axis.most}) is too short for {count} profiles")
    return found


def profile_for(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Number of the first that holds these shapes. Raises: ValueError."""
    for number, profile in enumerate(profiles):
        if all(
            least <= size <= most
            for name, (low, _, high) in profile.shapes.items()
            for least, size, most in zip(low, shapes[name], high, strict=True)
        ):
            return number
    raise ValueError(f"no profile holds {spelled(shapes)}")


def spelled(shapes: Mapping[str, Shape]) -> str:
    """As trtexec and ONNX Runtime both take them: "AUDIO:1x80x100,LENGTH:1x1"."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
