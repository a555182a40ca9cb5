"""Kokoro's importer, on a stand-in of the same interface: layouts, noise, references, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gateway.triton.exported.description import Axis
from gateway.triton.exported.ranges import MOST_VALUES
from gateway.triton.models.exported import Folder
from gateway.triton.models.tts import kokoro as front
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError
from parley_export.families import kokoro
from parley_export.families.kokoro_random import RATE, STYLES, VOICES, write_random
from parley_export.families.noise import Noise
from parley_export.families.noise_ranges import audio_axis, noise_axes, noise_inputs

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-in")
    write_random(folder, 0)
    return folder


@pytest.fixture(scope="module")
def repository(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    export("kokoro", str(stand_in), made, name="tts_kokoro", seed=0)
    return made


@pytest.fixture(scope="module")
def engine(repository: Path) -> front.Kokoro:
    return front.load(Folder(repository / "tts_kokoro" / "1"))


@pytest.fixture(scope="module")
def reference(repository: Path) -> dict[str, Array]:
    with np.load(repository / "tts_kokoro" / "reference" / "front.npz") as saved:
        return {name: saved[name] for name in saved.files}


def test_the_front_says_what_the_graph_said_at_the_export(
    engine: front.Kokoro, reference: dict[str, Array]
) -> None:
    for index in (0, 1):
        voice, audio = str(reference[f"voice_{index}"]), reference[f"audio_{index}"]
        said = engine.audio(reference[f"ids_{index}"], 0, voice)
        assert np.abs(said - audio).max() < 1e-5
        assert len(audio) > RATE
        assert np.abs(engine.audio(kokoro.SENTENCE, 0, voice) - audio).max() < 1e-5
        assert len(said) != len(audio) or np.abs(engine.audio(kokoro.SENTENCE, 1, voice) - audio).max() > 1e-3
    assert {voice.name: voice.language for voice in engine.voices} == {
        "af_small": "en-US",
        "am_small": "en-US",
        "bf_small": "en-GB",
    }


def test_too_little_noise_is_asked_for_again_and_the_same_is_said(
    engine: front.Kokoro, reference: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.triton.models.tts.piper.SPARE", 0.1)
    assert np.abs(engine.audio(reference["ids_0"], 0) - reference["audio_0"]).max() < 1e-5


def test_speed_and_the_count_of_tokens_choose_length_and_style(engine: front.Kokoro) -> None:
    usual = len(engine.audio("good morning everybody", 0))
    assert len(engine.audio("good morning everybody", 0, speed=2.0)) < 0.75 * usual
    assert len(engine.audio("good morning everybody", 0, speed=0.5)) > 1.5 * usual
    fed: list[dict[str, Array]] = []
    run = engine._graph.run

    def seen(feeds: Any, outputs: Any = ()) -> Any:
        fed.append(dict(feeds))
        return run(feeds, outputs)

    try:
        engine._graph.run = seen  # type: ignore[method-assign]
        engine.audio(np.array([0, 20, 21, 22, 0], np.int64), 0)
        engine.audio(np.array([0] + [20, 21] * 400 + [0], np.int64), 0)
    finally:
        engine._graph.run = run  # type: ignore[method-assign]
    assert np.array_equal(fed[0]["style"][0], engine._styles["af_small"][2].reshape(-1))
    assert [feeds["ids"].shape[1] for feeds in fed] == [5, 512, 292]
    assert np.array_equal(fed[1]["style"][0], engine._styles["af_small"][509].reshape(-1))


def test_a_changed_weight_is_heard(repository: Path, tmp_path: Path, reference: dict[str, Array]) -> None:
    import shutil

    shutil.copytree(repository, tmp_path / "models")
    path = tmp_path / "models" / "graph_tts_kokoro_voice" / "1" / "model.onnx"
    model = onnx.load(str(path))
    weight = next(one for one in model.graph.initializer if one.name == "told.bias")
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[1] += 0.05
    weight.raw_data = values.tobytes()
    onnx.save(model, str(path))
    said = front.load(Folder(tmp_path / "models" / "tts_kokoro" / "1")).audio(reference["ids_0"], 0)
    whole = reference["audio_0"]
    assert len(said) != len(whole) or np.abs(said - whole).max() > 1e-2


def test_the_other_layout_with_whole_speeds_and_voices_of_other_languages(
    stand_in: Path, tmp_path: Path
) -> None:
    """As kokoro-onnx has it: tokens -> audio, voices in an .npz called .bin; some exports take the speed as INT32."""
    model = onnx.load(str(stand_in / "onnx" / "model.onnx"))
    for old, new in (("input_ids", "tokens"), ("waveform", "audio")):
        kokoro._rename(model.graph, old, new)
    kokoro._rename(model.graph, "speed", "speed_float")
    for value in model.graph.input:
        if value.name == "speed_float":
            value.CopyFrom(helper.make_tensor_value_info("speed", TensorProto.INT32, [1]))
    model.graph.node.insert(0, helper.make_node("Cast", ["speed"], ["speed_float"], to=TensorProto.FLOAT))
    folder = tmp_path / "kokoro-v1.0"
    folder.mkdir()
    onnx.save(model, str(folder / "kokoro-v1.0.onnx"))
    styles = np.fromfile(stand_in / "voices" / f"{VOICES[0]}.bin", "<f4").reshape(STYLES, 1, -1)
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, af_a=styles, bm_b=-styles, zf_c=styles)
    vocabulary = json.loads((stand_in / "config.json").read_text())["vocab"]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"$": 0, **vocabulary}}}))
    export("kokoro", str(folder), tmp_path / "models", chosen={"voices": "bm_b,af_a"})
    engine = front.load(Folder(tmp_path / "models" / "tts_kokoro_kokoro_v1_0" / "1"))
    assert [voice.name for voice in engine.voices] == ["bm_b", "af_a"]
    usual = len(engine.audio("good morning", 0))
    assert usual > RATE / 4
    with pytest.raises(ExportError, match="has no voice of a language with a dictionary here"):
        export("kokoro", str(folder), tmp_path / "models", chosen={"voices": "zf_c"})
    with pytest.raises(ExportError, match="has no voice xx; it has af_a, bm_b, zf_c"):
        export("kokoro", str(folder), tmp_path / "models", chosen={"voices": "xx"})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"put Kokoro's config\.json"):
        export("kokoro", str(folder), tmp_path / "models")
    onnx.save(model, str(folder / "other.onnx"))
    with pytest.raises(ExportError, match=r"2 \.onnx files; name one"):
        export("kokoro", str(folder), tmp_path / "models")


def test_noise_of_a_whole_kokoro_stays_within_a_profile() -> None:
    """As the published graph takes it: 600 samples a frame, nine values of noise a sample, a phase each harmonic."""
    noises = [Noise("noise_0", "noise_0_size", True, "a"), Noise("noise_1", "noise_1_size", False, "b")]

    def case(tokens: int, frames: int) -> tuple[dict[str, Any], dict[str, Any]]:
        values = {"noise_0": np.zeros(9), "noise_1": np.broadcast_to(0, 5400 * frames)}
        return {"ids": np.zeros((1, tokens)), **values}, {"audio": np.broadcast_to(0, 600 * frames)}

    cases = [case(5, 20), case(30, 111), case(120, 390)]
    inputs = noise_inputs(noises, cases, ids="ids", audio="audio", rate=24_000, most_tokens=512)
    assert [one.most for one in inputs] == [9, 9 * 24_000 * 120]
    assert inputs[1].most < MOST_VALUES
    axes = {axis.name: axis for axis in noise_axes(inputs, 120)}
    assert axes["noise_1_values"].usual > 5400 * 390, "more than one of the usual length took"
    assert audio_axis("samples", 600 * 390, 24_000) == Axis("samples", 1, 234_000, 2_880_000)
