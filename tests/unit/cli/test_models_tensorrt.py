"""`parley models tensorrt`: what it refuses before anything is built. tests/stack/exported has what it does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from gateway.cli.common import Fault
from gateway.cli.models import tensorrt
from gateway.cli.models.tensorrt_arguments import configure_tensorrt
from gateway.triton.exported.description import Graph, Tensor, to_json
from gateway.triton.tensorrt.machine import Builder

GRAPH = Graph("g", inputs=(Tensor("X", "FP32", (4,)),), outputs=(Tensor("Y", "FP32", (4,)),), max_batch=4)
CONFIG = 'name: "graph_g"\nbackend: "onnxruntime"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A graph; a model with it; a model that is a program."""
    made = tmp_path / "models"
    graph = made / "graph_g"
    (graph / "1").mkdir(parents=True)
    (graph / "graph.json").write_text(to_json(GRAPH))
    (graph / "config.pbtxt").write_text(CONFIG)
    for name, graphs in {"tts_g": {"voice": "graph_g"}, "tts_program": {}}.items():
        (made / name / "1").mkdir(parents=True)
        (made / name / "provenance.json").write_text("{}")
        (made / name / "1" / "front.json").write_text(json.dumps({"kind": "vits", "graphs": graphs}))
    return made


def asked(repository: Path, model: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configure_tensorrt(parser)
    return parser.parse_args([model, "--repository", str(repository), *more])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("tts_program", "tts_program has no graphs to build from: its own library runs it"),
        ("tts_nobody", "is no exported model and none of its graphs"),
        ("tts_g", r"graph_g has no 1/model\.onnx, which TensorRT builds from"),
    ],
)
async def test_what_cannot_be_built_from(repository: Path, model: str, says: str) -> None:
    with pytest.raises(Fault, match=says):
        await tensorrt.run_tensorrt(asked(repository, model, "--prepare-only"))


async def test_plans_need_a_repository_of_their_own_which_is_said_before_the_build(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(python: str) -> tuple[Builder, str]:
        return Builder("/bin/false", "10.13.3", "9.0", "a GPU"), ""

    monkeypatch.setattr(tensorrt, "find_builder", found)
    with pytest.raises(Fault, match="--out is a repository of its own for the plans"):
        await tensorrt.run_tensorrt(asked(repository, "tts_g", "--out", f"{repository}/."))
    with pytest.raises(Fault, match="--out is missing"):
        await tensorrt.run_tensorrt(asked(repository, "tts_g"))
    assert not (repository / "graph_g" / "tensorrt").exists()


async def test_a_repository_that_cannot_be_written(repository: Path) -> None:
    (repository / "graph_g" / "1" / "model.onnx").touch()
    (
        repository / "graph_g" / "tensorrt"
    ).touch()  # a file where the folder goes: root may write anything else
    with pytest.raises(Fault, match=r"graph_g/tensorrt: file exists; profiles and scripts are written into"):
        await tensorrt.run_tensorrt(asked(repository, "tts_g", "--prepare-only"))


@pytest.mark.parametrize("version", ["ten", "10.x", ""])
def test_a_version_is_one(repository: Path, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked(repository, "tts_g", "--tensorrt", version)
    assert "is no version of TensorRT" in capsys.readouterr().err
