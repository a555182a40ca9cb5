"""Graphs in half precision: what counts, sums and decides stays FP32, and all the rest does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gateway.triton.tensorrt.half import check_half
from gateway.triton.tensorrt.source import NOT_STOOD
from parley_export import half
from parley_export.half_graph import half_part, in_half, prepare
from parley_export.half_kept import kept_nodes
from tests.support.exported import exported

SMALL = {
    "whisper": (), "moonshine": (), "parakeet-ctc": (), "parakeet-rnnt": (), "fastconformer": (), "zipformer": (),
    "vits": (), "piper": (), "speecht5": (), "fastspeech2": (), "mimi": (), "snac": (), "kokoro": (),
}  # fmt: skip
TDT = ("parakeet-rnnt", "tdt=true")
MOST, PIPER = 0.95, 0.5
"""Of the weights in FP16: of all graphs but those in which durations come out of everything before them."""
LESS = {"graph_tts_piper_small_voice": PIPER, "graph_tts_vits_small_text": half.WORTH}
WHOLE = {"graph_tts_kokoro_small_voice"}
"""Durations and phases, summed up, come from nearly all of its weights: it is none for FP16."""
EITHER = {"graph_tts_vits_small_text"}
"""Its durations come through splines as steep as its random weights make them."""


@pytest.mark.parametrize("family", [*SMALL, TDT], ids=str)
def test_every_small_graph_stands_it_with_most_of_its_weights(
    family: str | tuple[str, ...], tmp_path: Path
) -> None:
    repository = exported(family) if isinstance(family, str) else exported(*family)
    graphs = sorted(repository.glob("graph_*/1/model.onnx"))
    assert graphs
    for path in graphs:
        folder, copy = path.parents[1], tmp_path / f"{path.parents[1].name}.onnx"
        if folder.name in WHOLE:
            with pytest.raises(half.NotStood, match="does not stand FP16"):
                half.half_that_stands(folder, copy)
            assert not copy.exists()
            continue
        try:
            part = half.half_that_stands(folder, copy)
        except half.NotStood:
            assert folder.name in EITHER
            continue
        assert check_half(folder, copy) == ""
        assert part >= LESS.get(folder.name, MOST), folder.name
        made = onnx.load(str(copy))
        assert half_part(made) == part
        onnx.checker.check_model(made, full_check=True)
        assert not _narrowed_and_widened(made)


@pytest.mark.parametrize("family", ["parakeet-ctc", "moonshine", "mimi"])
def test_with_nothing_kept_the_same_graphs_do_not_stand_it(family: str, tmp_path: Path) -> None:
    missed = []
    for path in sorted(exported(family).glob("graph_*/1/model.onnx")):
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        prepare(model)
        onnx.save(in_half(model, ()), str(tmp_path / "half.onnx"))
        missed.append(check_half(path.parents[1], tmp_path / "half.onnx"))
    assert any("does not stand FP16" in one for one in missed)


def _narrowed_and_widened(model: onnx.ModelProto) -> list[str]:
    """Tensors that lose bits on their way from one FP32 node to the next."""
    made = {name: node for node in model.graph.node for name in node.output}
    return [
        node.output[0]
        for node in model.graph.node
        if node.name.startswith("cast ")
        and (before := made.get(node.input[0])) is not None
        and before.name.startswith("cast ")
    ]


def _graph(
    nodes: list[onnx.NodeProto], inputs: dict[str, int], output: tuple[str, int], **weights: object
) -> object:
    values = [helper.make_tensor_value_info(name, kind, ["n", 4]) for name, kind in inputs.items()]
    made = helper.make_graph(
        nodes, "g", values, [helper.make_tensor_value_info(output[0], output[1], None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    )
    prepare(model)
    return model


def _ran(model: object, **feeds: object) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    return np.asarray(session.run(None, feeds)[0])


WEIGHTS = np.eye(4, dtype=np.float32)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def test_a_position_of_thousands_keeps_all_its_digits() -> None:
    node = helper.make_node
    model = _graph(
        [
            node("Cast", ["AT"], ["at"], to=FLOAT), node("Mul", ["at", "step"], ["angle"]),
            node("Sin", ["angle"], ["wave"]), node("MatMul", ["wave", "weights"], ["OUT"]),
        ],
        {"AT": INT64}, ("OUT", FLOAT), step=np.float32(0.1), weights=WEIGHTS,
    )  # fmt: skip
    at = np.array([[1, 2049, 4099, 70001]])
    kept = kept_nodes(model)
    assert np.abs(_ran(in_half(model, kept), AT=at) - np.sin(at * 0.1)).max() < 2e-3
    assert len(kept) == 3
    assert half_part(in_half(model, kept)) > 0.9
    assert np.abs(_ran(in_half(model, ()), AT=at) - np.sin(at * 0.1)).max() > 0.1


def test_a_mask_whose_number_half_precision_does_not_hold_hides_what_it_hides() -> None:
    node = helper.make_node
    model = _graph(
        [
            node("MatMul", ["IN", "weights"], ["scores"]), node("Mul", ["HIDDEN", "lowest"], ["mask"]),
            node("Add", ["scores", "mask"], ["masked"]), node("Softmax", ["masked"], ["likely"]),
            node("MatMul", ["likely", "weights"], ["OUT"]),
        ],
        {"IN": FLOAT, "HIDDEN": FLOAT}, ("OUT", FLOAT), lowest=np.float32(-3e38), weights=WEIGHTS,
    )  # fmt: skip
    feeds = {"IN": np.ones((2, 4), np.float32), "HIDDEN": np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.float32)}
    kept = kept_nodes(model)
    assert np.abs(_ran(in_half(model, kept), **feeds) - [[0.5, 0.5, 0, 0], [0.25] * 4]).max() < 1e-3
    assert {model.graph.node[one].op_type for one in kept} == {"Mul", "Add", "Softmax"}  # type: ignore[attr-defined]


def test_what_becomes_a_number_of_frames_is_fp32_from_its_beginning() -> None:
    node = helper.make_node
    model = _graph(
        [
            node("MatMul", ["IN", "weights"], ["long"]), node("Ceil", ["long"], ["whole"]),
            node("Cast", ["whole"], ["COUNT"], to=INT64),
        ],
        {"IN": FLOAT}, ("COUNT", INT64), weights=WEIGHTS,
    )  # fmt: skip
    numbers = np.array([[2048.25, 3.0, 4097.0, 5.0001]], np.float32)
    kept = kept_nodes(model)
    assert len(kept) == 3
    assert _ran(in_half(model, kept), IN=numbers).tolist() == [[2049, 3, 4097, 6]]


def test_a_constant_for_both_kinds_of_node_loses_nothing_for_the_one() -> None:
    node = helper.make_node
    model = _graph(
        [
            node("Exp", ["IN"], ["large"]), node("Mul", ["large", "third"], ["OUT"]),
            node("MatMul", ["IN", "weights"], ["other"]), node("Mul", ["other", "third"], ["unused"]),
        ],
        {"IN": FLOAT}, ("OUT", FLOAT), third=np.float32(1 / 3), weights=WEIGHTS,
    )  # fmt: skip
    made = in_half(model, kept_nodes(model))
    assert _ran(made, IN=np.zeros((1, 4), np.float32)).tolist() == [[np.float32(1 / 3)] * 4]


@pytest.mark.parametrize(("bad", "first", "end"), [({9}, 9, 10), ({3, 5}, 3, 6), ({0}, 0, 1), ({15}, 15, 16)])
def test_the_search_finds_the_place_where_it_goes_wrong(bad: set[int], first: int, end: int) -> None:
    found = half._most_that_stands(lambda low, high: (low, high) if bad <= set(range(low, high)) else None)
    assert found == (first, end)


def test_the_program_says_that_nothing_stands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = exported("snac").glob("graph_*")
    monkeypatch.setattr(half, "_says_the_same", lambda *_: False)
    monkeypatch.setattr("sys.argv", ["half", str(folder), str(tmp_path / "half.onnx")])
    assert half.main() == half.NOT_STOOD == NOT_STOOD
    assert "does not stand FP16" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_what_is_no_graph_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = exported("snac").glob("graph_*")
    (tmp_path / "1").mkdir()
    for name in ("graph.json", "reference.npz"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "1" / "model.onnx").write_bytes(b"no graph at all")
    monkeypatch.setattr("sys.argv", ["half", str(tmp_path), str(tmp_path / "half.onnx")])
    assert half.main() == 1
    assert "is no ONNX graph" in capsys.readouterr().err
