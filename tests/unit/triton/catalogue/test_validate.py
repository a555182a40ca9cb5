"""One test for each thing that Triton would only call "failed to poll"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.triton.catalogue.findings import Level
from gateway.triton.catalogue.folder import ModelFolder, read_local
from gateway.triton.catalogue.machine import Machine, installed, this_machine
from gateway.triton.catalogue.validate import problem, validate
from tests.support.stack import MODELS
from tests.unit.triton.catalogue.parts import MODEL, asr, findings, parameters, sentences, tts, write

PLAIN = 'backend: "{}"\ninput [ {{ name: "A" data_type: TYPE_FP32 dims: [ -1 ] }} ]\n'
NO_GPU = Machine(gpus=0, backends=frozenset({"python", "onnxruntime"}))
ENSEMBLE = """
platform: "ensemble"
input [ { name: "A" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "B" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling { step [
  { model_name: "cut" model_version: -1 },
  { model_name: "mend" model_version: -1 }
] }
"""


def test_models_that_keep_everything_have_no_findings(tmp_path: Path) -> None:
    write(tmp_path / "a", "asr_x", asr())
    write(tmp_path / "b", "tts_x", tts())
    assert findings(tmp_path / "a", NO_GPU) == []
    assert findings(tmp_path / "b", NO_GPU) == []


def test_the_shipped_models_have_no_findings() -> None:
    machine = Machine(gpus=0, backends=this_machine().backends)
    for folder in read_local(MODELS):
        assert validate(folder, machine=machine, siblings=[]) == []


BROKEN: dict[str, tuple[str | None, Mapping[str, str] | None, str]] = {
    "no protobuf text": ('backend: python"\n', None, r"m/config\.pbtxt:1: it cannot be read: "),
    "no field of a config": (
        'backend: "python"\nbackends: "python"\n',
        None,
        r"m/config\.pbtxt:2: it cannot be read: .*backends",
    ),
    "another name than its folder": (
        'name: "other"\nbackend: "python"\n',
        None,
        r'm/config\.pbtxt:1: the model is called "other" and its folder "m"',
    ),
    "no version folder": (PLAIN.format("python"), {}, r"/m: no version folder: .* into a folder called 1"),
    "a version that is no number": (
        PLAIN.format("python"),
        {"v1/model.py": MODEL},
        r"/m: no version folder: v1 is not a number",
    ),
    "a version with a leading zero": (
        PLAIN.format("python"),
        {"01/model.py": MODEL},
        r"/m: no version folder: 01 is not a number",
    ),
    "a version that the policy wants and is not there": (
        PLAIN.format("python") + "version_policy { specific { versions: [ 1, 3 ] } }",
        None,
        "version_policy wants version 3, which has no folder",
    ),
    "no model.py": (
        PLAIN.format("python"),
        {"1/other.py": ""},
        r"/m/1: model\.py is missing, which the python backend",
    ),
    "no model.onnx": (
        PLAIN.format("onnxruntime"),
        {"1/": ""},
        r"model\.onnx is missing, which the onnxruntime",
    ),
    "no model.plan": ('platform: "tensorrt_plan"', {"1/": ""}, r"model\.plan is missing, which the tensorrt"),
    "no file of the name that the config gives": (
        PLAIN.format("python") + 'default_model_filename: "main.py"',
        None,
        r"main\.py is missing",
    ),
    "a syntax error": (
        PLAIN.format("python"),
        {"1/model.py": "import os\n\ndef f(:\n"},
        r"/m/1/model\.py:3: Python cannot read it: invalid syntax",
    ),
    "a syntax error beside the model": (
        PLAIN.format("python"),
        {"1/model.py": MODEL, "1/engine.py": "x = (\n"},
        r"/m/1/engine\.py:1: Python cannot read it",
    ),
    "no model class": (
        PLAIN.format("python"),
        {"1/model.py": "class Model: ...\n"},
        r"/m/1/model\.py: no class TritonPythonModel",
    ),
    "an unknown backend": (
        PLAIN.format("pyton"),
        None,
        r'config\.pbtxt:1: this Triton has no backend "pyton", only onnxruntime, python',
    ),
    "no backend at all": ("max_batch_size: 0", {"1/": ""}, "no backend: name one"),
    "a GPU instance": (
        PLAIN.format("python") + "instance_group [ { kind: KIND_GPU count: 1 } ]",
        None,
        r"config\.pbtxt:3: its instance_group asks for KIND_GPU, and this machine has no GPU",
    ),
    "a need for a GPU": (
        PLAIN.format("python") + parameters({"needs_gpu": "true"}),
        None,
        r"config\.pbtxt:3: it needs a GPU \(needs_gpu\), and this machine has none",
    ),
    "a step that is nowhere": (
        ENSEMBLE,
        {"1/": ""},
        r"config\.pbtxt:6: its step cut is in none of the repositories",
    ),
    "an ensemble of nothing": ('platform: "ensemble"', {"1/": ""}, "an ensemble without steps"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_said_with_its_place(what: str, tmp_path: Path) -> None:
    config, files, expected = BROKEN[what]
    write(tmp_path, "m", config, files)
    found = findings(tmp_path, NO_GPU)
    assert any(re.search(expected, sentence) for sentence in sentences(found)), sentences(found)
    assert problem(found)


def test_where_the_machine_is_not_known_nothing_is_held_against_a_model(tmp_path: Path) -> None:
    config = (
        PLAIN.format("vendor") + "instance_group [ { kind: KIND_GPU } ]" + parameters({"needs": "lib:nosuch"})
    )
    write(tmp_path, "m", config)
    assert findings(tmp_path) == []


def test_what_must_be_installed_is_looked_for(tmp_path: Path) -> None:
    said = parameters({"needs": "python:json,python:nosuch,lib:nosuchlib", "install": "apt-get install it"})
    write(tmp_path, "m", PLAIN.format("python") + said)
    [sentence] = sentences(findings(tmp_path, Machine(has=installed)))
    assert sentence.endswith(
        "it needs the Python package nosuch and the library libnosuchlib, which this machine has not: apt-get install it"
    )


def test_a_model_with_a_python_of_its_own_is_not_judged_by_ours(tmp_path: Path) -> None:
    said = parameters({"EXECUTION_ENV_PATH": "/opt/env", "needs": "python:nosuch"})
    write(tmp_path, "m", PLAIN.format("python") + said, {"1/model.py": "a syntax of the future\n"})
    assert findings(tmp_path, Machine(has=installed)) == []


def test_files_name_the_backend_where_the_config_does_not(tmp_path: Path) -> None:
    write(tmp_path, "m", None, {"1/model.onnx": "graph"})
    assert findings(tmp_path, NO_GPU) == []


def test_older_versions_are_looked_at_where_they_are_served(tmp_path: Path) -> None:
    files = {"1/model.py": "def (", "2/model.py": MODEL}
    folder = write(tmp_path, "m", PLAIN.format("python"), files)
    assert findings(tmp_path) == []
    (folder / "config.pbtxt").write_text(PLAIN.format("python") + "version_policy { all {} }")
    assert "1/model.py:1" in problem(findings(tmp_path))


def test_an_ensemble_whose_steps_are_there_is_fine(tmp_path: Path) -> None:
    write(tmp_path, "m", ENSEMBLE, {"1/": ""})
    [folder] = read_local(tmp_path)
    assert validate(folder, siblings=["cut", "mend", "m"]) == []
    assert validate(folder, siblings=None) == [], "unknown siblings are nobody's fault"


def test_a_folder_that_looks_like_a_version_is_warned_of(tmp_path: Path) -> None:
    write(tmp_path, "m", PLAIN.format("python"), {"1/model.py": MODEL, "2a/model.py": MODEL})
    [sentence] = sentences(findings(tmp_path), Level.WARNING)
    assert "folder 2a is no version" in sentence


@settings(max_examples=60, deadline=None)
@given(config=st.binary(max_size=200), source=st.binary(max_size=200))
def test_no_bytes_make_it_raise(config: bytes, source: bytes) -> None:
    folder = ModelFolder(
        "asr_x",
        "models",
        frozenset({"config.pbtxt", "1/", "1/model.py"}),
        {"config.pbtxt": config, "1/model.py": source},
    )
    for one in validate(folder, machine=NO_GPU, siblings=[]):
        assert str(one)
        assert "\n" not in str(one)
