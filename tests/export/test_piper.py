"""Ready-made Piper voices: their noise becomes inputs, their generator streams, and they say what they said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LocalGraph
from gateway.triton.models.tts.piper import Piper, load
from gateway.triton.models.tts.windows import Windowing, Windows
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import generator
from parley_export.families import piper as family
from parley_export.families.noise import noise_to_inputs
from parley_export.families.piper_random import write_random
from parley_export.families.piper_runs import Feeds, proved, run_of
from parley_export.write import write
from tests.export.loudness import apart_db, clicks
from tests.support.exported import exported

NAME = "tts_piper_small"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def repository() -> Path:
    return exported("piper", "seed=0", "speakers=2")


@pytest.fixture(scope="module")
def engine(repository: Path) -> Piper:
    return load(Folder(repository / NAME / "1"))


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a voice as people download it."""
    folder = tmp_path_factory.mktemp("voice")
    with torch.no_grad():
        write_random(open_checkpoint("piper", "random:small"), folder, 1)
    return folder


@pytest.fixture(scope="module")
def original(voice: Path) -> Any:
    return onnx.load(str(voice / "voice.onnx"))


def graph_of(
    *nodes: Any, opset: int = 17, shape: tuple[Any, ...] = ("a", "b"), kind: int = TensorProto.FLOAT
) -> Any:
    graph = helper.make_graph(
        list(nodes), "drawing", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds_of(*ids: int) -> Feeds:
    return {
        "input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0.667, 1.0, 0.8], np.float32),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op", "attributes", "uniform"),
    [
        ("RandomNormalLike", {}, False),
        ("RandomNormalLike", {"mean": 2.0, "scale": 3.0}, False),
        ("RandomUniformLike", {}, True),
        ("RandomUniformLike", {"low": -1.0, "high": 3.0}, True),
        ("RandomNormal", {"shape": [4, 3]}, False),
        ("RandomUniform", {"shape": [4, 3], "low": 5.0, "high": 6.0}, True),
    ],
)
def test_every_kind_of_draw_becomes_an_input(op: str, attributes: dict[str, Any], uniform: bool) -> None:
    inputs = ["x"] if op.endswith("Like") else []
    model = graph_of(
        helper.make_node(op, inputs, ["n"], seed=3.0, **attributes),
        helper.make_node("Add", ["x", "n"], ["y"]),
    )
    drawn, noises = noise_to_inputs(model)
    onnx.checker.check_model(drawn)
    assert [(noise.name, noise.uniform) for noise in noises] == [("noise_0", uniform)]
    assert not [node for node in drawn.graph.node if node.op_type.startswith("Random")]
    feeds = {"x": np.arange(12, dtype=np.float32).reshape(4, 3)}
    given, expected = proved(model, drawn, noises, feeds)
    assert given["noise_0"].shape == (12,)
    assert np.ptp(expected["y"] - feeds["x"]) > 0.1, "it did draw"
    low, high = (0, 1) if uniform else (-5, 5)
    assert ((given["noise_0"] > low - 1e-6) & (given["noise_0"] < high + 1e-6)).all()


def test_a_draw_of_another_type_stays_of_that_type() -> None:
    node = helper.make_node("RandomNormalLike", ["x"], ["y"], dtype=TensorProto.DOUBLE)
    drawn, _ = noise_to_inputs(graph_of(node, kind=TensorProto.DOUBLE))
    made = run_of(drawn)({"x": np.zeros((2, 2), np.float32), "noise_0": np.arange(4, dtype=np.float32)})
    assert made["y"].dtype == np.float64
    assert made["y"].tolist() == [[0, 1], [2, 3]]


def test_too_little_noise_is_told_and_too_much_is_left(original: Any) -> None:
    drawn, noises = noise_to_inputs(original)
    run, feeds = run_of(drawn), feeds_of(*range(3, 20))
    plenty = {noise.name: np.ones(9999, np.float32) for noise in noises}
    made = run({**feeds, **plenty})
    taken = {noise.name: int(made[noise.size][0]) for noise in noises}
    assert taken["noise_0"] == 2 * 17
    exact = run({**feeds, **{name: np.ones(count, np.float32) for name, count in taken.items()}})
    np.testing.assert_array_equal(exact["output"], made["output"])
    short = run({**feeds, **plenty, "noise_1": np.ones(5, np.float32)})
    assert int(short["noise_1_size"][0]) == taken["noise_1"]
    assert np.isfinite(short["output"]).all()
    assert not np.array_equal(short["output"], made["output"])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (graph_of(helper.make_node("Bernoulli", ["x"], ["y"])), "draws by Bernoulli"),
        (graph_of(helper.make_node("RandomNormalLike", ["x"], ["y"]), opset=11), "opset 11; 13 or later"),
        (
            graph_of(
                helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
                helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
                helper.make_node(
                    "If", ["c"], ["y"], name="branch",
                    **{
                        side: helper.make_graph(
                            [helper.make_node("RandomNormalLike", ["x"], [side])], side, [],
                            [helper.make_tensor_value_info(side, TensorProto.FLOAT, None)],
                        )
                        for side in ("then_branch", "else_branch")
                    },
                ),
            ),
            "inside If branch",
        ),
    ],
)  # fmt: skip
def test_what_cannot_become_an_input_is_refused(model: Any, sentence: str) -> None:
    with pytest.raises(ExportError, match=sentence):
        noise_to_inputs(model)


def test_a_voice_says_bit_for_bit_what_it_said(original: Any) -> None:
    drawn, noises = noise_to_inputs(original)
    given, expected = proved(original, drawn, noises, feeds_of(*range(3, 40)))
    assert expected["output"].std() > 0.02
    assert len(given[noises[0].name]) == 2 * 37


def test_a_changed_graph_is_caught(original: Any) -> None:
    drawn, noises = noise_to_inputs(original)
    weight = next(one for one in drawn.graph.initializer if len(one.dims) == 3)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 1e-3
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match="does not say the same: output differs"):
        proved(original, drawn, noises, feeds_of(*range(3, 40)))


def test_the_generator_is_found_and_cut_off(original: Any) -> None:
    drawn, _ = noise_to_inputs(original)
    cut = generator.find_cut(drawn, "output")
    assert cut is not None
    assert (cut.channels, cut.conditions) == (32, ())
    second = generator.second_part(drawn, cut, ["output"])
    operators = [node.op_type for node in second.graph.node]
    assert operators.count("ConvTranspose") == 4
    assert not {"Softmax", "Exp", "Sigmoid"} & set(operators), "neither encoder nor flow"
    made = run_of(second)({cut.latents: np.ones((1, 32, 5), np.float32)})
    assert made["output"].shape == (1, 1, 1, 5 * 256)


def test_what_has_no_generator_is_not_cut() -> None:
    assert generator.find_cut(graph_of(helper.make_node("Relu", ["x"], ["y"])), "y") is None


def test_the_front_streams_what_the_whole_voice_says(engine: Piper, repository: Path) -> None:
    with np.load(repository / NAME / "reference" / "front.npz") as told:
        for number, voice in enumerate(("person0", "person1")):
            ids, seed, audio = (told[f"{key}_{number}"] for key in ("ids", "seed", "audio"))
            assert str(told[f"voice_{number}"]) == voice
            heard = engine.audio(ids, int(seed), voice)
            assert apart_db(heard, audio) < -80
            assert audio.std() > 0.03


def test_the_generators_windows_have_no_seams(repository: Path) -> None:
    graph = LocalGraph(repository / f"graph_{NAME}_generator")
    told = json.loads((repository / NAME / "1" / "front.json").read_text())
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((32, 80), np.float32)
    conditions = {
        t.name: np.zeros((1, *map(int, t.dims)), np.float32)
        for t in graph.spec.inputs
        if t.name in told["conditions"]
    }
    assert conditions, "two speakers"

    def run(window: Any) -> Any:
        return graph.run({"latents": window[None], **conditions})["audio"].reshape(-1)

    whole, windows = run(latents), Windowing.of(told["windows"])
    parts = list(Windows(run, Windowing.of({**told["windows"], "later": 9})).stream(latents))
    assert len(parts) > 5
    assert apart_db(np.concatenate(parts), whole) < -60
    assert clicks(parts, whole) < 1e-3
    short = Windowing.of({**told["windows"], "left": windows.left - 4, "right": windows.right - 4})
    assert apart_db(np.concatenate(list(Windows(run, short).stream(latents))), whole) > -60


def test_a_voice_without_a_generator_is_spoken_piece_by_piece(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "find_cut", lambda *_: None)
    checkpoint = open_checkpoint("piper", str(voice))
    made = family.export(checkpoint, {"language": "en-GB", "voices": "ada", "license": "CC-BY-4.0"})
    write(made, checkpoint, tmp_path, name="tts_ada", say=lambda _: None)
    spoken = load(Folder(tmp_path / "tts_ada" / "1"))
    assert [(one.name, one.language) for one in spoken.voices] == [("ada", "en-GB")]
    assert not (tmp_path / "graph_tts_ada_generator").exists()
    reference: dict[str, Any] = made.front_reference
    heard = spoken.audio(reference["ids_0"], int(reference["seed_0"]))
    assert apart_db(heard, reference["audio_0"]) < -80
    parts: list[Any] = []

    def keep(part: Any) -> bool:
        parts.append(part)
        return True

    spoken.synthesize("Good morning.", spoken.voices[0], 1.0, keep)
    assert len(parts) == 1
    assert np.abs(parts[0]).max() > 1000


def test_ids_are_as_piper_makes_them(engine: Piper) -> None:
    """^ and _ first, _ after each sound, $ last."""
    ids = engine._say("Yes.")
    assert ids[:2].tolist() == [1, 0]
    assert ids[-1] == 2
    assert (ids[3:-1:2] == 0).all()
    assert (ids[2:-1:2] > 2).all()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"phoneme_type": "pinyin"}, "this Piper voice reads pinyin"),
        ({"audio": None}, "cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    voice: Path, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "voice.onnx").write_bytes((voice / "voice.onnx").read_bytes())
    told = json.loads((voice / "voice.onnx.json").read_text())
    told = {key: value for key, value in (told | changed).items() if value is not None}
    (tmp_path / "voice.onnx.json").write_text(json.dumps(told))
    with pytest.raises(ExportError, match=sentence):
        family.export(open_checkpoint("piper", str(tmp_path)), {})


def test_a_graph_that_is_no_voice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"holds 0 \.onnx files"):
        family.export(open_checkpoint("piper", str(tmp_path)), {})
    onnx.save(graph_of(helper.make_node("Relu", ["x"], ["y"])), str(tmp_path / "relu.onnx"))
    (tmp_path / "relu.onnx.json").write_text("{}")
    with pytest.raises(
        ExportError, match=r"relu\.onnx is no Piper voice: it lacks input, input_lengths, scales"
    ):
        family.export(open_checkpoint("piper", str(tmp_path)), {})
