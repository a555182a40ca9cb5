"""Engines by the `tensorrt` wheel, with a stand-in for it: all of it but TensorRT itself."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.triton.exported.description import Axis, Graph, State, Tensor, to_json
from gateway.triton.exported.reference import Feeds, make_cases, record, save
from gateway.triton.tensorrt import machine
from gateway.triton.tensorrt.build import Engine, build_engine
from gateway.triton.tensorrt.machine import Builder, find_builder
from gateway.triton.tensorrt.process import BuildFailed
from gateway.triton.tensorrt.profiles import profiles_of
from gateway.triton.tensorrt.wheel import WheelRun, build_with_wheel
from gateway.triton.tensorrt.wheel_found import wheel_version
from tests.unit.triton.tensorrt.test_machine import TRTEXEC, put

GRAPH = Graph(
    "step",
    inputs=(Tensor("FEATURES", "FP32", ("T", 4)),),
    outputs=(Tensor("DOUBLED", "FP32", ("T", 4)),),
    states=(State("state_00_sum", "new_00_sum", (1,)),),
    start="START",
    axes=(Axis("T", 0, 8, 40),),
    max_batch=4,
)
VERSION = "10.13.3.9"


def torch_says(feeds: Feeds) -> dict[str, Any]:
    before = np.where(feeds["START"] > 0, np.float32(0), feeds["state_00_sum"])
    return {
        "DOUBLED": feeds["FEATURES"] * np.float32(2),
        "new_00_sum": before + feeds["FEATURES"].sum((1, 2), keepdims=True)[:, :, 0],
    }


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of every Python that is started, with the wheel in it."""
    folder = tmp_path / "wheel"
    folder.mkdir()
    shutil.copyfile(Path(__file__).with_name("fake_tensorrt.py"), folder / "tensorrt.py")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "graph_step"
    (folder / "1").mkdir(parents=True)
    (folder / "graph.json").write_text(to_json(GRAPH))
    (folder / "1" / "model.onnx").write_text(json.dumps(GRAPH.input_names))
    told = {case.name: case for case in make_cases(GRAPH)}
    cases = [told["least, 1 in a batch"], told["three times, 3 in a batch"]]
    for case in cases:
        del case.steps[2:]  # each is a process
        record(GRAPH, case, torch_says)
    save(folder / "reference.npz", cases)
    return folder


async def built(
    model: Path,
    cache: Path,
    *,
    version: str = VERSION,
    precision: str = "fp32",
    buckets: int = 1,
    mig: str = "",
) -> Engine:
    builder = Builder("", version, "9.0", "NVIDIA H200", sys.executable, mig)
    return await build_engine(
        GRAPH, model, model / "1" / "model.onnx", profiles_of(GRAPH, buckets=buckets), builder,
        precision=precision, cache=cache,
    )  # fmt: skip


def calls(wheel: Path, what: str) -> list[Any]:
    lines = [json.loads(line) for line in (wheel / "calls").read_text().splitlines()]
    return [line[1:] for line in lines if line[0] == what]


async def test_it_is_built_once_run_and_held_against_torch(wheel: Path, model: Path, tmp_path: Path) -> None:
    engine = await built(model, tmp_path / "cache")
    assert not engine.cached
    assert engine.parity.ok, engine.parity
    assert engine.parity.how == f"TensorRT {VERSION} fp32"
    assert engine.parity.compared == 6
    assert engine.plan.parent.name.endswith("-trt10.13.3.9-sm90-fp32")
    assert (engine.plan.parent / "build.log").exists()
    assert (await built(model, tmp_path / "cache")).cached
    ((flags, (profile,), timings),) = calls(wheel, "build")
    assert flags == []  # TF32 is cleared
    assert profile["FEATURES"] == [[1, 0, 4], [2, 8, 4], [4, 40, 4]]
    assert timings == ""


async def test_timings_are_kept_for_the_next_unless_they_are_of_another(
    wheel: Path, model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    await built(model, cache)
    await built(model, cache, precision="fp16")
    (timing,) = cache.glob("*/timing.cache")
    assert timing.read_bytes() == b"timed timed "
    timing.write_bytes(b"another machine's")
    await built(model, cache, buckets=2)
    assert [told[2] for told in calls(wheel, "build")] == ["", "timed ", ""]


@pytest.mark.parametrize(("version", "flags"), [(VERSION, ["FP16", "TF32"]), ("11.4.0.106", ["TF32"])])
async def test_fp16_is_a_flag_until_10(
    wheel: Path, model: Path, tmp_path: Path, version: str, flags: list[str]
) -> None:
    (wheel / "version").write_text(version)
    engine = await built(model, tmp_path / "cache", version=version, precision="fp16")
    assert engine.parity.ok
    assert calls(wheel, "build")[0][0] == flags


async def test_with_several_profiles_each_case_runs_in_its_own(
    wheel: Path, model: Path, tmp_path: Path
) -> None:
    engine = await built(model, tmp_path / "cache", buckets=2)
    assert engine.parity.ok, engine.parity
    assert {number for (number,) in calls(wheel, "profile")} == {0, 1}


async def test_an_engine_that_says_something_else_misses(wheel: Path, model: Path, tmp_path: Path) -> None:
    (wheel / "lies").touch()
    engine = await built(model, tmp_path / "cache")
    assert not engine.parity.ok
    assert "DOUBLED" in engine.parity.note


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("parse fails", "no importer for operator Mystery"),
        ("build fails", "built no engine"),
        ("is killed", "ended with -9"),
    ],
)
async def test_a_build_that_fails_leaves_nothing_and_says_why(
    wheel: Path, model: Path, tmp_path: Path, what: str, says: str
) -> None:
    (wheel / what).touch()
    with pytest.raises(BuildFailed, match=says):
        await built(model, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*-sm90-*"))
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("does not load", "TensorRT does not load"),
        ("does not run", "the engine does not run"),
        ("no memory", "cuMemAlloc_v2 failed with 2"),
    ],
)
async def test_an_engine_that_does_not_run_misses_and_says_why(
    wheel: Path, model: Path, tmp_path: Path, what: str, says: str
) -> None:
    (wheel / what).touch()
    engine = await built(model, tmp_path / "cache")
    assert not engine.parity.ok
    assert says in engine.parity.note


async def test_a_wheel_that_changed_meanwhile_is_refused(wheel: Path, model: Path, tmp_path: Path) -> None:
    (wheel / "version").write_text("10.14.1.48")
    with pytest.raises(BuildFailed, match=r"10\.14\.1\.48, and 10\.13\.3\.9 was there before"):
        await built(model, tmp_path / "cache")


async def test_a_build_that_does_not_end_is_ended(wheel: Path, model: Path, tmp_path: Path) -> None:
    (wheel / "hangs").touch()
    with pytest.raises(BuildFailed, match="did not end within 2 s"):
        await build_with_wheel(
            model / "1" / "model.onnx", tmp_path / "p", tmp_path / "t", profiles_of(GRAPH),
            python=sys.executable, tensorrt=VERSION, precision="fp32", deadline_s=2.0,
        )  # fmt: skip
    assert not (tmp_path / "p").exists()


async def test_shapes_outside_the_profiles_are_said(wheel: Path, model: Path, tmp_path: Path) -> None:
    engine = await built(model, tmp_path / "cache")
    feeds = make_cases(GRAPH)[0].steps[0] | {
        "FEATURES": np.zeros((1, 41, 4), np.float32), "START": np.ones((1, 1), np.float32),
        "state_00_sum": np.zeros((1, 1), np.float32),
    }  # fmt: skip
    run = WheelRun(GRAPH, engine.plan, python=sys.executable, tensorrt=VERSION)
    with pytest.raises(BuildFailed, match="no profile of the engine holds these shapes"):
        await asyncio.to_thread(run, feeds)


async def test_the_wheel_is_found_in_a_python_that_has_it(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(machine, "_PLACES", ())
    put(tmp_path, nvidia_smi="echo 'NVIDIA H200, 9.0'")
    assert await find_builder() == (Builder("", VERSION, "9.0", "NVIDIA H200", sys.executable), "")
    put(tmp_path, trtexec=TRTEXEC)
    found, _ = await find_builder()
    assert found is not None
    assert (bool(found.trtexec), found.python) == (True, "")
    named, _ = await find_builder(sys.executable)
    assert named is not None
    assert (named.trtexec, named.python) == ("", sys.executable)


async def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(machine, "_PLACES", ())
    put(tmp_path, nvidia_smi="echo 'NVIDIA H200, 9.0'", python_none="exit 1", python_slow="sleep 60")
    (wheel / "version").write_text("8.6.1")
    assert "8.6.1 is too old: 10 or later is needed" in (await wheel_version(sys.executable))[1]
    (wheel / "tensorrt.py").unlink()
    found, missing = await find_builder()
    assert found is None
    assert all(part in missing for part in ("neither trtexec", "No module named 'tensorrt'", "--python"))
    found, missing = await find_builder(str(tmp_path / "nowhere"))
    assert found is None
    assert "does not start: no such file" in missing
    assert "has no TensorRT" in (await find_builder(str(tmp_path / "python-none")))[1]
    assert "did not end within 0 s" in (await wheel_version(str(tmp_path / "python-slow"), 0.2))[1]


async def test_another_gpu_of_the_same_capability_takes_no_engine_of_this_one(
    wheel: Path, model: Path, tmp_path: Path
) -> None:
    assert not (await built(model, tmp_path / "cache")).cached
    assert (await built(model, tmp_path / "cache")).cached
    assert not (await built(model, tmp_path / "cache", mig="1g.18gb")).cached
