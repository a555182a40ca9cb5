"""The proof can fail: one weight, one state, one axis changed in a graph's file, and its reference says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from gateway.triton.exported.description import State, from_json
from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, TTS_FAMILIES
from gateway.triton.exported.reference import load, rows_of
from parley_export.onnx_graph import ort_run
from tests.support.exported import exported

FAMILIES = (*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES)
WEIGHTS = 5
"""Weights changed in each graph, one at a time."""


def graphs(family: str) -> Iterator[Path]:
    folders = sorted(exported(family).glob("graph_*"))
    assert folders
    return (folder for folder in folders if (folder / "1" / "model.onnx").exists())


def is_caught(folder: Path, to: Path, change: Callable[[onnx.ModelProto], None]) -> bool:
    """Whether the changed file no longer says what the reference does."""
    spec = from_json((folder / "graph.json").read_text())
    model = onnx.load(str(folder / "1" / "model.onnx"))
    change(model)
    path = to / "model.onnx"
    onnx.save(model, str(path))
    try:
        run = ort_run(spec, path, optimised=False)
    except Exception:
        return True  # it does not even load
    return any(not row.ok for row in rows_of(spec, load(folder / "reference.npz"), run))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_changed_is_not_caught(family: str, tmp_path: Path) -> None:
    for folder in graphs(family):
        assert not is_caught(folder, tmp_path, lambda _: None), folder.name


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_weight_is_caught(family: str, tmp_path: Path) -> None:
    for folder in graphs(family):
        model = onnx.load(str(folder / "1" / "model.onnx"))
        names = [one.name for one in model.graph.initializer if weights(one) is not None]
        assert names, folder.name
        for name in np.random.default_rng(0).choice(names, min(WEIGHTS, len(names)), replace=False):
            assert is_caught(folder, tmp_path, partial(change_weight, name=name)), f"{folder.name}: {name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_state_that_stands_still_is_caught(family: str, tmp_path: Path) -> None:
    for folder in graphs(family):
        spec = from_json((folder / "graph.json").read_text())
        for state in spec.states:
            assert is_caught(folder, tmp_path, partial(freeze, state=state)), f"{folder.name}: {state}"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_axis_is_caught(family: str, tmp_path: Path) -> None:
    for folder in graphs(family):
        model = onnx.load(str(folder / "1" / "model.onnx"))
        places = [n for n, node in enumerate(model.graph.node) if turned(node)]
        if places:
            middle = places[len(places) // 2]
            assert is_caught(folder, tmp_path, partial(turn_node, number=middle)), (
                f"{folder.name}: {model.graph.node[middle]}"
            )


def weights(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    """Of a layer: floats in two dimensions or more."""
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    values = numpy_helper.to_array(tensor)
    return values if np.count_nonzero(values) else None


def change_weight(model: onnx.ModelProto, name: str) -> None:
    """The largest weight of a layer gets the other sign."""
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = numpy_helper.to_array(tensor).copy()
    at = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[at] = -values[at]
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def freeze(model: onnx.ModelProto, state: State) -> None:
    """The new state is the old one."""
    for node in model.graph.node:
        for at, name in enumerate(node.output):
            if name == state.output:
                node.output[at] = f"{name}_unused"
        for at, name in enumerate(node.input):
            if name == state.output:
                node.input[at] = f"{name}_unused"
    model.graph.node.append(onnx.helper.make_node("Identity", [state.input], [state.output]))


def turned(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Softmax", "Transpose", "LayerNormalization", "LogSoftmax")


def turn_node(model: onnx.ModelProto, number: int) -> None:
    turn(model.graph.node[number])


def turn(node: onnx.NodeProto) -> None:
    """Its axis is another one."""
    for attribute in node.attribute:
        if attribute.name == "perm" and len(attribute.ints) > 1:
            attribute.ints[:] = [*attribute.ints[1:], attribute.ints[0]]
            return
        if attribute.name == "axis":
            attribute.i = 0 if attribute.i not in (0,) else 1
            return
    node.attribute.append(onnx.helper.make_attribute("axis", 0))
