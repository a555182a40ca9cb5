from __future__ import annotations

from pathlib import Path

import pytest

from gateway.triton.errors import TritonError
from gateway.triton.model_info import family_of, is_complete, model_info, read_config


def model(repository: Path, name: str, config: str) -> Path:
    folder = repository / name
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config)
    return folder


_FULL = """
backend: "python" max_batch_size: 4
input [{ name: "A" data_type: TYPE_FP32 dims: [-1] }] output [{ name: "B" data_type: TYPE_FP32 dims: [-1] }]
"""


def test_lists_numbers_and_flags_are_read_from_the_parameters(tmp_path: Path) -> None:
    values = {"voices": "a, b ,,c", "sample_rate": "22050", "needs_gpu": "True", "memory_mb": "70"}
    lines = "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in values.items()
    )
    info = model_info(read_config(model(tmp_path, "tts_x", _FULL + lines)))
    assert info.name == "tts_x"
    assert info.voices == ("a", "b", "c")
    assert (info.sample_rate, info.needs_gpu, info.memory_mb) == (22_050, True, 70)
    assert (info.family, info.languages, info.tags, info.license) == ("", (), (), "")
    assert (info.inputs, info.outputs, info.max_batch_size) == (("A",), ("B",), 4)
    assert not info.decoupled
    assert not info.sequence


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    line = 'parameters { key: "sample_rate" value: { string_value: "fast" } }'
    with pytest.raises(TritonError, match=r"tts_x: parameter sample_rate in config\.pbtxt is not a number"):
        model_info(read_config(model(tmp_path, "tts_x", _FULL + line)))


def test_an_unreadable_config_names_the_file(tmp_path: Path) -> None:
    folder = model(tmp_path, "bad", "backend: python")
    with pytest.raises(TritonError, match=r"bad/config\.pbtxt cannot be read"):
        read_config(folder)


def test_a_config_is_complete_with_tensors_and_a_backend(tmp_path: Path) -> None:
    model(tmp_path, "full", _FULL)
    model(tmp_path, "open", 'backend: "onnxruntime"')
    (tmp_path / "bare" / "1").mkdir(parents=True)
    found = [read_config(tmp_path / name) for name in ("bare", "full", "open")]
    assert [config.name for config in found] == ["bare", "full", "open"]
    assert [is_complete(config) for config in found] == [False, True, False]


def test_what_a_model_says_of_itself(tmp_path: Path) -> None:
    values = {"engine": "flite", "licence": "MIT", "streaming": "no"}
    lines = "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in values.items()
    )
    info = model_info(read_config(model(tmp_path, "tts_x", _FULL + lines)))
    assert (info.engine, info.license, info.streaming, family_of(info)) == ("flite", "MIT", False, "tts")
    decoupled = "model_transaction_policy { decoupled: true }"
    assert model_info(read_config(model(tmp_path, "tts_y", _FULL + decoupled))).streaming
    assert not model_info(read_config(model(tmp_path, "vad", _FULL))).streaming
