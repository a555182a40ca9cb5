"""Where a ready-made voice can be cut in two: before the generator that turns latents into audio.

The generator is found by its structure: transposed convolutions one after the other up to the audio, and before
the first of them the convolution that takes the latents. What it needs besides (a speaker's embedding) becomes an
output of the first part and an input of the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

WAY = frozenset({"LeakyRelu", "Relu", "Add", "Mul", "Identity", "Cast", "Div", "Sub", "Sin", "Pow"})
"""What may lie between the first convolution and the first transposed one."""


@dataclass(frozen=True)
class Cut:
    latents: str
    """The tensor [B, C, F] at the cut."""
    channels: int
    conditions: tuple[str, ...]
    """Further tensors that cross it, each the same for all frames."""
    bent: str
    """What the last Tanh bends, where there is one; else the audio."""
    nodes: frozenset[str]
    """The generator's nodes, by their first outputs."""


def find_cut(model: Any, audio: str) -> Cut | None:
    """audio: the output. None: this graph does not look like one with a generator."""
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    weights = {weight.name: weight for weight in graph.initializer}
    order = {id(node): at for at, node in enumerate(graph.node)}
    generating = [node for node in _before(producer, [audio]) if node.op_type == "ConvTranspose"]
    if not generating:
        return None
    first = min(generating, key=lambda node: order[id(node)])
    opening = _opening(producer, weights, first)
    if opening is None:
        return None
    latents = opening.input[0]
    weight = weights.get(_source(producer, opening.input[1]))
    if latents not in producer or weight is None:
        return None
    behind = _after(graph, latents) - {latents}
    nodes = {node.output[0] for node in _before(producer, [audio]) if node.output[0] in behind}
    if any(node.output[0] not in nodes for node in generating):
        return None
    variable = _after(graph, *(value.name for value in graph.input if value.name not in weights))
    inner = [producer[name] for name in nodes]
    outside = {
        name for node in inner for name in node.input
        if name and name != latents and name not in weights and producer.get(name) not in inner
    }  # fmt: skip
    conditions = tuple(sorted(name for name in outside if name in variable))
    fixed = _before(producer, sorted(outside - set(conditions)))
    bent = producer[audio]
    while (
        bent.op_type in ("Unsqueeze", "Reshape", "Identity", "Squeeze", "Cast") and bent.input[0] in producer
    ):
        bent = producer[bent.input[0]]
    return Cut(
        latents, weight.dims[1], conditions, bent.input[0] if bent.op_type == "Tanh" else audio,
        frozenset(nodes | {node.output[0] for node in fixed}),
    )  # fmt: skip


def first_part(model: Any, cut: Cut, keep: Iterable[str]) -> Any:
    """A graph up to the cut. keep: outputs of the whole graph that it gives as well."""
    wanted = [cut.latents, *cut.conditions, *keep]
    outputs = _told(model, cut, wanted)
    producer = {name: node for node in model.graph.node for name in node.output}
    needed = {node.output[0] for node in _before(producer, wanted)}
    return _part(model, needed, list(model.graph.input), outputs)


def second_part(model: Any, cut: Cut, outputs: list[str]) -> Any:
    """The generator: latents and conditions in."""
    producer = {
        name: node for node in model.graph.node for name in node.output if node.output[0] in cut.nodes
    }
    needed = {node.output[0] for node in _before(producer, outputs)}
    return _part(model, needed, _told(model, cut, [cut.latents, *cut.conditions]), _told(model, cut, outputs))


def renamed(model: Any, names: dict[str, str]) -> Any:
    """A copy with other names of tensors."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*made.graph.input, *made.graph.output):
        value.name = names.get(value.name, value.name)
    return made


def _told(model: Any, cut: Cut, names: list[str]) -> list[Any]:
    there = {value.name: value for value in model.graph.output}
    for name in names:
        shape = (
            ["batch", cut.channels, "frames"] if name == cut.latents else [f"{name}_{n}" for n in range(3)]
        )
        there.setdefault(name, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return [there[name] for name in names]


def _part(model: Any, nodes: set[str], inputs: list[Any], outputs: list[Any]) -> Any:
    kept = [node for node in model.graph.node if node.output[0] in nodes]
    used = {name for node in kept for name in _inputs(node)}
    graph = helper.make_graph(
        kept,
        model.graph.name,
        [value for value in inputs if value.name in used],
        outputs,
        [weight for weight in model.graph.initializer if weight.name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _opening(producer: dict[str, Any], weights: dict[str, Any], first: Any) -> Any | None:
    """The nearest convolution over time before the first transposed one."""
    waiting, seen = [first.input[0]], set()
    while waiting:
        node = producer.get(waiting.pop(0))
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type == "Conv":
            weight = weights.get(_source(producer, node.input[1]))
            if (
                weight is not None and weight.dims[-1] > 1
            ):  # a kernel of one is a speaker's embedding on its way in
                return node
        elif node.op_type in WAY:
            waiting += node.input
    return None


def _source(producer: dict[str, Any], name: str) -> str:
    while name in producer and producer[name].op_type == "Identity":
        name = producer[name].input[0]
    return name


def _before(producer: dict[str, Any], names: Iterable[str]) -> list[Any]:
    """All nodes that these tensors come from."""
    waiting, found, seen = list(names), [], set()
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            found.append(node)
            waiting += _inputs(node)
    return found


def _after(graph: Any, *names: str) -> set[str]:
    """All tensors that depend on these. Nodes come in the order of their work."""
    reached = set(names)
    for node in graph.node:
        if any(name in reached for name in _inputs(node)):
            reached.update(node.output)
    return reached


def _inputs(node: Any) -> list[str]:
    """Those of its branches too."""
    inner = [name for a in node.attribute for g in (a.g, *a.graphs) for n in g.node for name in _inputs(n)]
    return [name for name in (*node.input, *inner) if name]
