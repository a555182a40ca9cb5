"""Importing a streaming zipformer: the rewritten files, their graphs and the front say what the files said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gateway.triton.exported.description import check, from_json
from gateway.triton.exported.reference import compare, load, make_cases, record
from gateway.triton.models.asr import streaming
from gateway.triton.models.exported import Folder
from parley_export import zipformer_small
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import zipformer
from parley_export.onnx_graph import ort_run
from parley_export.write import write
from parley_export.zipformer_graphs import encoder_graph, native_run, natives, rewritten
from tests.support.streaming import transcripts

ELEVEN = zipformer_small.Sizes(layers=11, width=16, key=8, value=8, left=8, vocabulary=20)
"""Layers: cached_key_1 begins cached_key_10."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sherpa-onnx ships one."""
    folder = tmp_path_factory.mktemp("sherpa-onnx-streaming")
    zipformer_small.write(zipformer_small.build(0), folder)
    return folder


@pytest.fixture(scope="module")
def repository(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("zipformer")
    checkpoint = open_checkpoint("zipformer", str(folder))
    write(zipformer.export(checkpoint, {}), checkpoint, repository, name="asr_zip", say=lambda _: None)
    return repository


def test_the_rewritten_encoder_says_what_torch_says(repository: Path) -> None:
    """The files were written from these weights; cases are made anew, so nothing recorded is believed."""
    small = zipformer_small.build(0)
    where = repository / "graph_asr_zip_encoder"
    graph = from_json((where / "graph.json").read_text())
    source = onnx.load(str(where / "1" / "model.onnx"))
    native = zipformer._torch(small.encoder, _as_shipped(small))
    cases = make_cases(graph, seed=3)
    for case in cases:
        record(graph, case, native_run(_as_shipped(small), graph, native))
    rows = compare(graph, cases, ort_run(graph, where / "1" / "model.onnx"))
    assert len(rows) > 30
    assert all(row.ok for row in rows), max(rows, key=lambda row: row.difference)
    assert {entry.key for entry in source.metadata_props} >= {"decode_chunk_len", "T"}


def test_a_state_that_starts_is_not_looked_at(repository: Path) -> None:
    where = repository / "graph_asr_zip_encoder"
    graph = from_json((where / "graph.json").read_text())
    run = ort_run(graph, where / "1" / "model.onnx")
    rng = np.random.default_rng(1)
    features = rng.standard_normal((1, 45, 80)).astype(np.float32)
    states = {s.input: np.full((1, *s.dims), np.nan, np.float32) for s in graph.states}
    clean = {s.input: np.zeros((1, *s.dims), np.float32) for s in graph.states}
    start, running = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    told = run({"FEATURES": features, "START": start, **states})
    assert np.array_equal(told["ENCODED"], run({"FEATURES": features, "START": running, **clean})["ENCODED"])
    counted = next(s for s in graph.states if s.input.endswith("processed_lens"))
    assert told[counted.output].tolist() == [[16.0]]


def test_no_state_of_many_layers_begins_another(tmp_path: Path) -> None:
    small = zipformer_small.build(0, ELEVEN)
    zipformer_small.write(small, tmp_path)
    model = onnx.load(str(tmp_path / "encoder.onnx"))
    names = [state.name for state in natives(model)]
    assert "cached_key_1" in names
    assert "cached_key_10" in names
    graph = encoder_graph(model, 8, 16, 8)
    check(graph)
    onnx.save(rewritten(model, graph), str(tmp_path / "new.onnx"))
    cases = make_cases(graph)
    for case in cases:
        record(graph, case, native_run(model, graph, zipformer._ort(tmp_path / "encoder.onnx")))
    assert all(row.ok for row in compare(graph, cases, ort_run(graph, tmp_path / "new.onnx")))


def test_states_of_the_first_zipformer_keep_their_layout(tmp_path: Path) -> None:
    """zipformer (1): INT64 counters [layers, N], keys [layers, left, N, dim]."""
    model = _first_zipformer()
    onnx.save(model, str(tmp_path / "old.onnx"))
    found = natives(model)
    assert [(one.batch, one.dims, one.state.dims) for one in found] == [
        (1, (2,), (2,)),
        (2, (2, 4, 3), (2, 4, 3)),
    ]
    graph = encoder_graph(model, 4, 3, 8)
    onnx.save(rewritten(model, graph), str(tmp_path / "new.onnx"))
    cases = make_cases(graph)
    for case in cases:
        record(graph, case, native_run(model, graph, zipformer._ort(tmp_path / "old.onnx")))
    rows = compare(graph, cases, ort_run(graph, tmp_path / "new.onnx"))
    assert len(rows) > 10
    assert all(row.ok for row in rows)


@pytest.mark.parametrize("chunk", ["whole", "small", "usual", "three times", "random"])
def test_the_front_says_what_the_files_said(repository: Path, chunk: str) -> None:
    front = streaming.load(Folder(repository / "asr_zip" / "1"))
    with np.load(repository / "asr_zip" / "reference" / "front.npz") as told:
        audios = [told[f"audio_{at}"] for at in range(3)]
        wanted = [front._pieces.text(told[f"tokens_{at}"].tolist()).split() for at in range(3)]
    assert all(wanted)
    sizes = {"whole": 1 << 20, "small": 160, "usual": 2_560, "three times": 7_680, "random": 0}
    assert transcripts(front, audios, sizes[chunk], starts=[0, 3, 1]) == wanted


def test_a_changed_state_is_caught(repository: Path) -> None:
    where = repository / "graph_asr_zip_encoder"
    graph = from_json((where / "graph.json").read_text())
    run, cases = ort_run(graph, where / "1" / "model.onnx"), load(where / "reference.npz")
    for state in graph.states:

        def broken(feeds: Any, name: str = state.input) -> Any:
            return run({**feeds, name: np.zeros_like(feeds[name])})

        assert not all(row.ok for row in compare(graph, cases, broken)), state.input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda to: (to / "joiner.onnx").unlink(), "no joiner"),
        (lambda to: shutil.copy(to / "joiner.onnx", to / "joiner-2.onnx"), "several joiners"),
        (lambda to: (to / "tokens.txt").write_text("<blk> 0\na 1\n"), "of two models"),
        (lambda to: (to / "tokens.txt").unlink(), "tokens.txt"),
        (lambda to: shutil.copy(to / "joiner.onnx", to / "encoder.onnx"), "metadata|streaming"),
        (lambda to: (to / "encoder.onnx").write_bytes(b"no graph"), "no ONNX file"),
    ],
)
def test_a_folder_that_is_no_streaming_zipformer_is_refused(
    folder: Path, tmp_path: Path, change: Any, said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change(copy)
    with pytest.raises(ExportError, match=said):
        zipformer.export(open_checkpoint("zipformer", str(copy)), {})


def test_the_quantised_file_is_taken_when_asked_for(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.copy(copy / "encoder.onnx", copy / "encoder.int8.onnx")
    assert zipformer._find(copy, "encoder", "").name == "encoder.onnx"
    assert zipformer._find(copy, "encoder", "int8").name == "encoder.int8.onnx"
    assert zipformer._find(copy, "decoder", "int8").name == "decoder.onnx"


def _as_shipped(small: zipformer_small.Small) -> Any:
    """Names, types and shapes of the shipped encoder's tensors, without its nodes."""
    dims = zipformer_small.state_dims(small.sizes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 45, 80])]
    outputs = [helper.make_tensor_value_info("encoder_out", TensorProto.FLOAT, None)]
    for name, (shape, batch) in dims.items():
        kind = TensorProto.INT64 if name == "processed_lens" else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(name, kind, [*shape[:batch], "N", *shape[batch:]]))
        outputs.append(helper.make_tensor_value_info(f"new_{name}", kind, None))
    return helper.make_model(helper.make_graph([], "shipped", inputs, outputs))


def _first_zipformer() -> Any:
    """x + mean of the keys + the counter, each state changed in its own layout."""

    def make(kind: int, name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Add", ["cached_len_0", "one"], ["new_cached_len_0"]),
        helper.make_node("Cast", ["new_cached_len_0"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["count"], ["counted"], axes=[0], keepdims=0),
        helper.make_node("ReduceMean", ["cached_key_0"], ["keyed"], axes=[0, 1], keepdims=0),
        helper.make_node("Unsqueeze", ["counted", "ends"], ["wide"]),
        helper.make_node("Unsqueeze", ["keyed", "middle"], ["tall"]),
        helper.make_node("Add", ["x", "wide"], ["sum"]),
        helper.make_node("Add", ["sum", "tall"], ["encoder_out"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["cached_key_0", "half"], ["less"]),
        helper.make_node("Add", ["less", "mean"], ["new_cached_key_0"]),
    ]
    inits = [
        one,
        helper.make_tensor("ends", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("middle", TensorProto.INT64, [1], [1]),
        helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5]),
    ]  # fmt: skip
    floats, wholes = TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        nodes, "old",
        [make(floats, "x", ["N", 4, 3]), make(wholes, "cached_len_0", [2, "N"]),
         make(floats, "cached_key_0", [2, 4, "N", 3])],
        [make(floats, "encoder_out", ["N", 4, 3]), make(wholes, "new_cached_len_0", [2, "N"]),
         make(floats, "new_cached_key_0", [2, 4, "N", 3])],
        initializer=inits,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
