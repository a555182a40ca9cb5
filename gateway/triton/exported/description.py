"""What is written down about an ONNX graph: its tensors, every dynamic axis' range, its states.

One description yields the explicit config (states are inputs and outputs), the implicit one (Triton keeps
the states), the reference cases and the TensorRT profiles.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

DTYPES = ("FP32", "FP16", "INT64", "INT32", "BOOL")
FILLS = ("normal", "uniform", "integers", "ones", "zeros")
LENGTH = "length:"
"""A fill: the valid length of a row along this axis."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension that varies from call to call."""

    name: str
    least: int
    usual: int
    most: int


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    """As Triton spells it: FP32, INT64, …"""
    dims: tuple[int | str, ...]
    """Without the batch dimension; a string names an axis."""
    fill: str = "normal"
    """How reference inputs are made: normal, uniform, integers, ones, zeros, or "length:<axis>": the valid
    length of each row (the first row has all of it)."""
    low: float = 0.0
    high: float = 1.0
    """Of uniform and integers: [low, high)."""


@dataclass(frozen=True, slots=True)
class State:
    """What a sequence carries from one step to the next: FP32, zeros at first."""

    input: str
    output: str
    dims: tuple[int, ...]
    """Without the batch dimension."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Order of tensors: inputs, start, states -> outputs, new states."""

    name: str
    """Within its model: encoder, decoder, step, …"""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...] = ()
    start: str = ""
    """Name of the START input, FP32 [1]: 1 on the first step of a sequence, whose states are then ignored."""
    axes: tuple[Axis, ...] = ()
    """Of the inputs."""
    max_batch: int = 0
    """0: tensors have no batch dimension."""
    tolerance: float = 1e-4
    """Largest absolute difference of a float output, ONNX Runtime's FP32 on a CPU against torch."""
    exact: tuple[str, ...] = ()
    """Outputs that must be identical whatever runs the graph: tokens, counts."""
    derived: tuple[Axis, ...] = ()
    """Axes that outputs alone have: what the inputs' ranges make of them, or measured and bounded."""

    def axis(self, name: str) -> Axis:
        """Raises: KeyError."""
        return {axis.name: axis for axis in (*self.axes, *self.derived)}[name]

    @property
    def input_names(self) -> list[str]:
        start = [self.start] if self.start else []
        return [t.name for t in self.inputs] + start + [s.input for s in self.states]

    @property
    def output_names(self) -> list[str]:
        return [t.name for t in self.outputs] + [s.output for s in self.states]

    def all_inputs(self) -> Iterator[Tensor]:
        """Start and states as tensors, in the graph's order."""
        yield from self.inputs
        if self.start:
            yield Tensor(self.start, "FP32", (1,))
        for state in self.states:
            yield Tensor(state.input, "FP32", state.dims)

    def all_outputs(self) -> Iterator[Tensor]:
        yield from self.outputs
        for state in self.states:
            yield Tensor(state.output, "FP32", state.dims)


def check(graph: Graph) -> None:
    """Raises: ValueError, one sentence, when a description breaks a rule that something else relies on."""
    names = graph.input_names + graph.output_names
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{graph.name}: tensor names are there twice: {', '.join(sorted(twice))}")
    axes = {axis.name for axis in graph.axes}
    named = [axis.name for axis in (*graph.axes, *graph.derived)]
    if len(set(named)) < len(named):
        raise ValueError(f"{graph.name}: two axes have one name: {', '.join(sorted(named))}")
    for axis in (*graph.axes, *graph.derived):
        if not 0 <= axis.least <= axis.usual <= axis.most:
            raise ValueError(
                f"{graph.name}: axis {axis.name} has no range: {axis.least}, {axis.usual}, {axis.most}"
            )
    for tensor in (*graph.inputs, *graph.outputs):
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{graph.name}: {tensor.name} has no known type: {tensor.dtype}")
        if tensor.fill not in FILLS and tensor.fill.removeprefix(LENGTH) not in axes:
            raise ValueError(f"{graph.name}: {tensor.name} is filled in no known way: {tensor.fill}")
    for tensor in graph.inputs:
        for dim in tensor.dims:
            if isinstance(dim, str) and dim not in axes:
                raise ValueError(f"{graph.name}: axis {dim} of {tensor.name} has no range written down")
    if graph.states and not (graph.start and graph.max_batch):
        raise ValueError(f"{graph.name}: a graph with states needs a START input and a batch dimension")
    for one, other in itertools.permutations([s.input for s in graph.states], 2):
        # Triton was seen to mix up states of which one's name begins with the other's.
        if other.startswith(one):
            raise ValueError(f"{graph.name}: state {one} is a prefix of {other}")
    for one, other in itertools.permutations([s.output for s in graph.states], 2):
        if other.startswith(one):
            raise ValueError(f"{graph.name}: state {one} is a prefix of {other}")


def to_json(graph: Graph) -> str:
    return json.dumps(asdict(graph), indent=1)


def from_json(text: str) -> Graph:
    """Raises: ValueError when it is no description of a graph."""
    try:
        told: Mapping[str, Any] = json.loads(text)
        graph = Graph(
            name=told["name"],
            inputs=tuple(_tensor(one) for one in told["inputs"]),
            outputs=tuple(_tensor(one) for one in told["outputs"]),
            states=tuple(State(one["input"], one["output"], tuple(one["dims"])) for one in told["states"]),
            start=told["start"],
            axes=tuple(Axis(**one) for one in told["axes"]),
            max_batch=told["max_batch"],
            tolerance=told["tolerance"],
            exact=tuple(told["exact"]),
            derived=tuple(Axis(**one) for one in told.get("derived", ())),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"it describes no graph: {type(error).__name__} {error}") from None
    check(graph)
    return graph


def _tensor(told: Mapping[str, Any]) -> Tensor:
    return Tensor(**{**told, "dims": tuple(told["dims"])})
