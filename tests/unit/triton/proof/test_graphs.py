"""A graph against its reference, on one small enough to be written by hand: a running sum that START resets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported import description, reference
from gateway.triton.exported.description import Axis, Graph, State, Tensor
from gateway.triton.exported.pbtxt import IMPLICIT, explicit_config, implicit_config
from gateway.triton.exported.reference import Case, make_cases, record
from gateway.triton.proof.graphs import ORT, REPLAYED, prove_graph
from gateway.triton.proof.proved import Proved
from tests.support.onnx_graphs import FLOAT, graph

SUM = Graph(
    name="sum",
    inputs=(Tensor("X", "FP32", (2,)),),
    outputs=(Tensor("SUM", "FP32", (2,)),),
    states=(State("OLD", "NEW", (2,)),),
    start="START",
    max_batch=8,
)
DOUBLE = Graph(
    name="double",
    inputs=(Tensor("X", "FP32", ("n",)),),
    outputs=(Tensor("Y", "FP32", ("n",)),),
    axes=(Axis("n", 1, 4, 12),),
    max_batch=4,
)


def says(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    kept = np.where(feeds["START"] > 0.5, 0, feeds["OLD"]).astype(np.float32)
    return {"SUM": kept + feeds["X"], "NEW": kept + feeds["X"]}


def folder(path: Path, spec: Graph = SUM, *, ignores_start: bool = False) -> Path:
    """As an export writes it."""
    (path / "1").mkdir(parents=True)
    (path / "configs").mkdir()
    if spec is SUM:
        kept = [("Identity", ("OLD",), ("KEPT",))] if ignores_start else [
            ("Sub", ("ONE", "START"), ("KEEP",)), ("Mul", ("OLD", "KEEP"), ("KEPT",)),
        ]  # fmt: skip
        made = graph(
            [*kept, ("Add", ("KEPT", "X"), ("NEW",)), ("Identity", ("NEW",), ("SUM",))],
            {"X": (FLOAT, ("b", 2)), "START": (FLOAT, ("b", 1)), "OLD": (FLOAT, ("b", 2))},
            {"SUM": (FLOAT, ("b", 2)), "NEW": (FLOAT, ("b", 2))},
            {"ONE": np.ones(1, np.float32)},
        )
    else:
        made = graph([("Add", ("X", "X"), ("Y",))], {"X": (FLOAT, ("b", "n"))}, {"Y": (FLOAT, ("b", "n"))})
    (path / "1" / "model.onnx").write_bytes(made)
    (path / "graph.json").write_text(description.to_json(spec))
    (path / "config.pbtxt").write_text(explicit_config(path.name, spec, {}))
    if spec.states:
        (path / IMPLICIT).write_text(implicit_config(path.name, spec, {}))
    cases = make_cases(spec)
    for case in cases:
        record(spec, case, says if spec is SUM else lambda feeds: {"Y": 2 * feeds["X"]})
    reference.save(path / "reference.npz", cases)
    return path


def test_states_are_proved_twice_and_a_graph_without_them_once(tmp_path: Path) -> None:
    found = prove_graph(folder(tmp_path / "graph_sum"))
    assert [(one.how, one.ok, one.worst) for one in found] == [(ORT, True, 0.0), (REPLAYED, True, 0.0)]
    assert all(one.compared > 10 for one in found)
    (one,) = prove_graph(folder(tmp_path / "graph_double", DOUBLE))
    assert (one.how, one.ok) == (ORT, True)


def test_a_graph_that_ignores_start_differs(tmp_path: Path) -> None:
    """With states that begin at zero nobody would notice on the first sequence; the reference's begin with garbage."""
    (explicit, implicit) = prove_graph(folder(tmp_path / "graph_sum", ignores_start=True))
    assert not explicit.ok
    assert "miss" in explicit.note
    assert implicit.ok, "Triton's own states are zero on START"


def broken(path: Path) -> Proved:
    found = [one for one in prove_graph(path) if not one.ok]
    assert len(found) == 1
    assert not math.isfinite(found[0].worst)
    return found[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_reference_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path / "graph_double", DOUBLE)
    (path / "reference.npz").write_bytes(content)
    one = broken(path)
    assert one.compared == 0
    assert "reference.npz" in one.note
    assert "\n" not in one.note


def test_a_reference_that_is_gone_or_empty(tmp_path: Path) -> None:
    path = folder(tmp_path / "graph_double", DOUBLE)
    reference.save(path / "reference.npz", [])
    assert broken(path).note == "its reference holds no case"
    (path / "reference.npz").unlink()
    assert "reference.npz" in broken(path).note


def test_an_input_of_another_shape_is_a_miss_and_no_traceback(tmp_path: Path) -> None:
    path = folder(tmp_path / "graph_sum")
    cases = [Case("odd", [{"X": np.zeros((1, 3), np.float32), "START": np.ones((1, 1), np.float32)}],
                  [{"SUM": np.zeros((1, 3), np.float32)}])]  # fmt: skip
    reference.save(path / "reference.npz", cases)
    assert all("graph sum failed" in one.note for one in prove_graph(path))


@pytest.mark.parametrize("name", ["graph.json", "1/model.onnx"])
def test_a_folder_that_lacks_something(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "graph_double", DOUBLE)
    (path / name).unlink()
    assert name.removeprefix("1/") in broken(path).note


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('input_name: "OLD"', 'input_name: "OTHER"', "it gives the graph no OLD"),
        ("kind: CONTROL_SEQUENCE_START", "kind: CONTROL_SEQUENCE_END", "it has no START control"),
        ("fp32_false_true: [ 0, 1 ]", "fp32_false_true: [ 1, 0 ]", "START must be 0 and 1 in FP32"),
        ("zero_data: true", 'data_file: "x"', "state OLD has no initial_state of zeros"),
        ("sequence_batching {", "sequence_batching [", "configs/implicit.pbtxt"),
    ],
)
def test_an_implicit_config_that_leaves_something_open(tmp_path: Path, old: str, new: str, why: str) -> None:
    path = folder(tmp_path / "graph_sum")
    text = (path / IMPLICIT).read_text()
    assert old in text
    (path / IMPLICIT).write_text(text.replace(old, new))
    one = broken(path)
    assert one.how == REPLAYED
    assert why in one.note


def test_an_implicit_config_of_another_shape_of_state(tmp_path: Path) -> None:
    path = folder(tmp_path / "graph_sum")
    text = (path / IMPLICIT).read_text()
    (path / IMPLICIT).write_text(text.replace('output_name: "NEW", data_type: TYPE_FP32, dims: [ 2 ]',
                                              'output_name: "NEW", data_type: TYPE_FP32, dims: [ 3 ]'))  # fmt: skip
    assert broken(path).how == REPLAYED


def test_an_implicit_config_that_is_gone(tmp_path: Path) -> None:
    path = folder(tmp_path / "graph_sum")
    (path / IMPLICIT).unlink()
    assert IMPLICIT in broken(path).note
