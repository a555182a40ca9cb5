"""The graph reader of triton/backends/onnxruntime, which is no package and is loaded by path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import onnx_graphs
from tests.support.stack import CHECKOUT


@pytest.fixture(scope="module")
def reader() -> Any:
    path = CHECKOUT / "triton" / "backends" / "onnxruntime" / "onnx_graph.py"
    spec = importlib.util.spec_from_file_location("onnx_graph", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["onnx_graph"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["onnx_graph"]


def test_names_types_and_shapes_are_read_and_weights_are_no_inputs(reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_graphs.linear(np.zeros((300, 2), np.float32)))
    inputs, outputs = reader.read_graph(path)
    assert inputs == [reader.Tensor("X", "TYPE_FP32", (-1, 300))]
    assert outputs == [reader.Tensor("Y", "TYPE_FP32", (-1, 2))]


def test_scalars_and_strings(reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_graphs.scaled())
    assert reader.read_graph(path)[0][1] == reader.Tensor("FACTOR", "TYPE_FP32", ())
    path.write_bytes(onnx_graphs.echo_text())
    assert reader.read_graph(path)[0] == [reader.Tensor("IN", "TYPE_STRING", (-1, 2))]


@given(
    data=st.one_of(
        st.binary(min_size=1, max_size=200),
        st.integers(0, 100).map(lambda n: onnx_graphs.doubler()[: -n or None]),
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused(
    reader: Any, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    try:
        reader.read_graph(path)
    except ValueError:
        pass
