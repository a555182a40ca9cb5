"""`parley models tensorrt` up to the build itself, which needs a GPU: a stand-in trtexec takes its place.

The stand-in checks its arguments as trtexec does, keeps the graph as its "plan", and runs it in ONNX
Runtime: what is proved is everything around a build, not TensorRT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gateway.triton.exported.reference import load
from gateway.triton.model_info import read_config
from gateway.triton.models.graphs import LocalGraph
from tests.stack.exported.test_proofs import front_of
from tests.support.exported import changeable, exported

TRTEXEC = """\
#!{python}
import json, pathlib, sys
import numpy as np, onnxruntime
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] [b1]")
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as file: file.write(" ".join(sys.argv[1:]) + "\\n")
if "onnx" in options:
    if (here / "fails").exists(): sys.exit(print("[E] Error[4]: out of memory") or 1)
    pathlib.Path(options["saveEngine"]).write_bytes(pathlib.Path(options["onnx"]).read_bytes())
    pathlib.Path(options["timingCacheFile"]).write_text("timed")
elif "loadEngine" in options:
    session = onnxruntime.InferenceSession(options["loadEngine"], providers=["CPUExecutionProvider"])
    kinds = {{"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}}
    shapes = dict(part.split(":") for part in options["shapes"].split(","))
    files = dict(part.split(":") for part in options["loadInputs"].split(","))
    feeds = {{t.name: np.fromfile(files[t.name], kinds[t.type]).reshape([int(d) for d in shapes[t.name].split("x")])
             for t in session.get_inputs()}}
    half = "-fp16/" in options["loadEngine"]
    wrong = 1.5 if (here / "lies").exists() or half and (here / "lies in fp16").exists() else 1.0
    made = zip([t.name for t in session.get_outputs()], session.run(None, feeds))
    told = [{{"name": n, "dimensions": "x".join(map(str, v.shape)),
             "values": (v * wrong if v.dtype.kind == "f" else v).ravel().tolist()}} for n, v in made]
    pathlib.Path(options["exportOutput"]).write_text(json.dumps(told))
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with a GPU and a trtexec in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "nvidia-smi": "#!/bin/sh\necho 'NVIDIA H200, 9.0'\n",
        "trtexec": TRTEXEC.format(python=sys.executable, version="101303"),
    }
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def run(
    repository: Path, model: str, *more: str, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = (
        {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else os.environ
    )
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "models",
        "tensorrt",
        model,
        "--repository",
        str(repository),
    ]
    return subprocess.run(
        [*command, *more], capture_output=True, text=True, timeout=120, check=False, env=dict(environment)
    )


@pytest.fixture
def vocoder(tmp_path: Path) -> tuple[Path, str]:
    repository = changeable(exported("fastspeech2"), tmp_path)
    return repository, f"graph_{front_of(repository).name}_vocoder"


def test_an_engine_is_built_once_and_held_against_torch(
    vocoder: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    repository, model = vocoder
    out, cache = tmp_path / "plans", tmp_path / "cache"
    options = ("--out", str(out), "--cache", str(cache))
    first = run(repository, model, *options, path=tools)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "TensorRT 10.13.3 fp32" in first.stdout
    assert "equal" in first.stdout
    assert (out / model / "1" / "model.plan").exists()
    assert 'platform: "tensorrt_plan"' in (out / model / "config.pbtxt").read_text()
    assert len(list(cache.rglob("timing.cache*"))) == 1
    again = run(repository, model, *options, path=tools)
    assert "from the cache" in again.stdout
    builds = [line for line in (tools / "calls").read_text().splitlines() if "--saveEngine" in line]
    assert len(builds) == 1


def test_an_engine_that_says_something_else_fails(
    vocoder: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    repository, model = vocoder
    (tools / "lies").touch()
    made = run(repository, model, "--out", str(tmp_path / "p"), "--cache", str(tmp_path / "c"), path=tools)
    assert made.returncode == 1
    assert "differs" in made.stdout
    assert "no tensorrt_plan was written" in made.stdout
    assert not (tmp_path / "p").exists()


def test_a_failed_build_leaves_nothing_and_says_why(
    vocoder: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    repository, model = vocoder
    (tools / "fails").touch()
    made = run(repository, model, "--out", str(tmp_path / "p"), "--cache", str(tmp_path / "c"), path=tools)
    assert made.returncode == 1
    assert "out of memory" in made.stderr
    assert not (tmp_path / "p").exists()
    assert not [left for left in (tmp_path / "c").rglob("*") if left.is_file() and "timing" not in left.name]


def test_a_python_that_was_named_and_has_no_wheel_is_a_fault(
    vocoder: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    repository, model = vocoder
    made = run(repository, model, "--out", str(tmp_path / "p"), "--python", "/nowhere/python", path=tools)
    assert made.returncode == 1
    assert "/nowhere/python has no TensorRT to build with" in made.stderr
    assert not (repository / model / "tensorrt").exists()


def test_without_a_gpu_everything_but_the_engine_is_written(
    vocoder: tuple[Path, str], tmp_path: Path
) -> None:
    repository, model = vocoder
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    made = run(repository, model, "--tensorrt", "10.13.3", "--precision", "fp16", "--profiles", "2")
    assert made.returncode == 0, made.stderr
    assert "no engine was built: there is no NVIDIA GPU here" in made.stdout
    script = repository / model / "tensorrt" / "build.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "--fp16" in script.read_text()
    assert "precision_mode" in (repository / model / "configs" / "tensorrt.pbtxt").read_text()


def test_from_version_11_on_the_graph_itself_is_in_half_precision(vocoder: tuple[Path, str]) -> None:
    repository, model = vocoder
    done = run(repository, model, "--tensorrt", "11.2.1", "--precision", "fp16", "--prepare-only")
    assert done.returncode == 0, done.stderr
    half = repository / model / "tensorrt" / "model.fp16.onnx"
    whole = repository / model / "1" / "model.onnx"
    assert half.stat().st_size < whole.stat().st_size
    graph = LocalGraph(repository / model)
    case = next(one for one in load(repository / model / "reference.npz") if one.name.startswith("usual"))
    (whole.parent / "model.onnx").write_bytes(half.read_bytes())
    made = LocalGraph(repository / model).run(case.steps[0])
    for name, value in graph.run(case.steps[0]).items():
        assert made[name].dtype == value.dtype == np.float32
        assert 0 < np.abs(made[name] - value).max() < 0.05 * np.abs(value).max()
    assert "--onnx=model.fp16.onnx" in (half.parent / "build.sh").read_text()
    provider = (repository / model / "configs" / "tensorrt.pbtxt").read_text()
    assert 'default_model_filename: "model.fp16.onnx"' in provider
    assert (whole.parent / "model.fp16.onnx").read_bytes() == half.read_bytes()
    # A copy that says something else is not built from: it is made anew.
    good = half.read_bytes()
    whole.write_bytes((exported("fastspeech2") / model / "1" / "model.onnx").read_bytes())
    half.write_bytes(_louder(half))
    again = run(repository, model, "--tensorrt", "11.2.1", "--precision", "fp16", "--prepare-only")
    assert again.returncode == 0, again.stderr
    assert half.read_bytes() == good


def test_a_graph_that_does_not_stand_half_precision_is_one_for_fp32(tmp_path: Path) -> None:
    """The small voice's whole sound hangs on phases that are summed up from all its weights."""
    repository = changeable(exported("kokoro"), tmp_path)
    done = run(
        repository, front_of(repository).name, "--tensorrt", "11.2.1", "--precision", "fp16", "--prepare-only"
    )
    assert done.returncode == 0, done.stderr
    assert "does not stand FP16; it is one for FP32" in done.stdout
    (model,) = repository.glob("graph_*")
    assert "--noTF32" in (model / "tensorrt" / "build.sh").read_text()
    assert "default_model_filename" not in (model / "configs" / "tensorrt.pbtxt").read_text()
    assert not list(model.rglob("*fp16*"))


def test_an_engine_that_misses_in_fp16_is_built_in_fp32(
    vocoder: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    repository, model = vocoder
    (tools / "lies in fp16").touch()
    options = ("--out", str(tmp_path / "p"), "--cache", str(tmp_path / "c"), "--precision", "fp16")
    made = run(repository, model, *options, path=tools)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "it is built in FP32" in made.stdout
    assert "TensorRT 10.13.3 fp32" in made.stdout
    told = read_config(tmp_path / "p" / model).parameters
    assert told["precision"].string_value == "fp32"
    assert "does not stand FP16" in told["precision_why"].string_value


def _louder(half: Path) -> bytes:
    """Other weights in the middle of the file, most of which are weights."""
    told = bytearray(half.read_bytes())
    middle = len(told) // 2 // 2 * 2
    told[middle : middle + 64] = np.full(32, 60, "<f2").tobytes()
    return bytes(told)
