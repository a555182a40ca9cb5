"""Profiles, keys, scripts and configs of TensorRT engines: all of it without TensorRT."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.exported.description import Axis, Graph, State, Tensor
from gateway.triton.tensorrt.configs import plan_config, provider_config
from gateway.triton.tensorrt.keys import EngineKey, engine_key
from gateway.triton.tensorrt.machine import version_of
from gateway.triton.tensorrt.profiles import profile_for, profiles_of, spelled
from gateway.triton.tensorrt.script import build_script, needs_fp16_graph, trtexec_command

ENCODER = Graph(
    "encoder",
    inputs=(Tensor("FEATURES", "FP32", ("T", 80)), Tensor("LENGTH", "INT64", (1,), "length:T")),
    outputs=(Tensor("OUT", "FP32", ("T", 8)),),
    axes=(Axis("T", 16, 500, 3000),),
    max_batch=16,
)
STEP = Graph(
    "step",
    inputs=(Tensor("FEATURES", "FP32", (8, 80)),),
    outputs=(Tensor("TOKENS", "INT64", (4,)),),
    states=(State("state_00_a", "new_00_a", (2, 3)),),
    start="START",
    max_batch=64,
)
ALLOWED = {
    "precision_mode", "max_workspace_size_bytes", "trt_engine_cache_enable", "trt_engine_cache_path",
    "trt_timing_cache_enable", "trt_timing_cache_path", "trt_profile_min_shapes", "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}  # fmt: skip
"""Of what Triton's onnxruntime backend lets through to the provider, that which is used here."""


def test_a_profile_names_every_input_with_its_range() -> None:
    (profile,) = profiles_of(ENCODER)
    assert profile.shapes == {
        "FEATURES": ((1, 16, 80), (8, 500, 80), (16, 3000, 80)),
        "LENGTH": ((1, 1), (8, 1), (16, 1)),
    }


def test_states_and_start_are_inputs_too() -> None:
    (profile,) = profiles_of(STEP, usual_batch=48)
    assert profile.shapes["state_00_a"] == ((1, 2, 3), (48, 2, 3), (64, 2, 3))
    assert spelled(profile.column(1)) == "FEATURES:48x8x80,START:48x1,state_00_a:48x2x3"


@given(st.integers(0, 50), st.integers(0, 400), st.integers(0, 3000), st.integers(1, 5))
def test_several_profiles_share_the_axis_without_gap_or_overlap(
    least: int, more: int, rest: int, buckets: int
) -> None:
    axis = Axis("T", least, least + more, least + more + rest + 40)
    parts = profiles_of(replace(ENCODER, axes=(axis,)), buckets=buckets)
    ranges = [
        (p.shapes["FEATURES"][0][1], p.shapes["FEATURES"][1][1], p.shapes["FEATURES"][2][1]) for p in parts
    ]
    assert ranges[0][0] == axis.least
    assert ranges[-1][2] == axis.most
    assert all(low <= usual <= high for low, usual, high in ranges)
    assert all(after[0] == before[2] + 1 for before, after in itertools.pairwise(ranges))


def test_a_case_runs_in_the_first_profile_that_holds_it() -> None:
    profiles = profiles_of(ENCODER, buckets=3)
    for number, profile in enumerate(profiles):
        assert profile_for(profiles, profile.column(0)) == number
        assert profile_for(profiles, profile.column(2)) == number
    with pytest.raises(ValueError, match="no profile holds FEATURES:1x3001x80"):
        profile_for(profiles, {"FEATURES": (1, 3001, 80), "LENGTH": (1, 1)})


@pytest.mark.parametrize(("graph", "buckets", "batch"), [(STEP, 2, 0), (ENCODER, 0, 0), (ENCODER, 1, 99)])
def test_profiles_that_make_no_sense_are_refused(graph: Graph, buckets: int, batch: int) -> None:
    with pytest.raises(ValueError, match=r"profile|batch"):
        profiles_of(graph, buckets=buckets, usual_batch=batch)


def test_a_key_changes_with_everything_that_an_engine_is_tied_to(tmp_path: Path) -> None:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"one")
    profiles = profiles_of(ENCODER)
    first = engine_key(onnx, "10.13.3", "9.0", "fp32", profiles)
    assert isinstance(first, EngineKey)
    others = {
        first.folder(),
        engine_key(onnx, "10.13.4", "9.0", "fp32", profiles).folder(),
        engine_key(onnx, "10.13.3", "8.9", "fp32", profiles).folder(),
        engine_key(onnx, "10.13.3", "9.0", "fp16", profiles).folder(),
        engine_key(onnx, "10.13.3", "9.0", "fp32", profiles_of(ENCODER, usual_batch=3)).folder(),
    }
    onnx.write_bytes(b"two")
    others.add(engine_key(onnx, "10.13.3", "9.0", "fp32", profiles).folder())
    assert len(others) == 6
    assert all("/" not in name for name in others)
    with pytest.raises(ValueError, match="int4"):
        engine_key(onnx, "10.13.3", "9.0", "int4", profiles)


@pytest.mark.parametrize(
    ("version", "precision", "flag", "graph"),
    [("10.13.3", "fp16", True, False), ("11.2.1", "fp16", False, True), ("11", "fp32", False, False)],
)
def test_precision_follows_the_major_version(version: str, precision: str, flag: bool, graph: bool) -> None:
    command = trtexec_command(
        Path("m.onnx"),
        Path("m.plan"),
        Path("t.cache"),
        profiles_of(ENCODER),
        version=version,
        precision=precision,
    )
    assert ("--fp16" in command) is flag
    assert ("--noTF32" in command) is (precision == "fp32")
    assert needs_fp16_graph(version, precision) is graph
    assert command[:4] == ["trtexec", "--onnx=m.onnx", "--saveEngine=m.plan", "--timingCacheFile=t.cache"]


def test_each_of_several_profiles_has_its_number_and_its_shapes() -> None:
    profiles = profiles_of(ENCODER, buckets=3)
    command = trtexec_command(Path("m"), Path("p"), Path("t"), profiles, version="10", precision="fp32")
    assert [word for word in command if word.startswith("--profile=")] == [f"--profile={n}" for n in range(3)]
    assert sum(word.startswith("--optShapes=") for word in command) == 3


def test_the_script_is_one_for_bash() -> None:
    script = build_script([["trtexec", "--onnx=a file.onnx"]], about="Builds it.")
    assert "'--onnx=a file.onnx'" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(("implicit", "graph"), [(False, ENCODER), (False, STEP), (True, STEP)])
def test_configs_are_ones_that_triton_reads(implicit: bool, graph: Graph) -> None:
    profiles = profiles_of(graph)
    plan = ModelConfig()
    text_format.Parse(plan_config("g", graph, {"family": "graph"}, profiles=2, implicit=implicit), plan)
    assert plan.platform == "tensorrt_plan"
    assert not plan.backend
    assert list(plan.instance_group[0].profile) == ["0", "1"]
    assert plan.HasField("sequence_batching") is implicit
    ort = ModelConfig()
    text = provider_config(
        "g", graph, {}, profiles, cache="/engines/g", precision="fp16", tensorrt_major=10, implicit=implicit
    )
    text_format.Parse(text, ort)
    (accelerator,) = ort.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) <= ALLOWED
    assert accelerator.parameters["precision_mode"] == "FP16"
    named = {part.split(":")[0] for part in accelerator.parameters["trt_profile_max_shapes"].split(",")}
    assert named == set(graph.input_names)


def test_precision_mode_is_gone_with_strong_typing() -> None:
    text = provider_config(
        "g",
        ENCODER,
        {},
        profiles_of(ENCODER),
        cache="/e",
        precision="fp16",
        tensorrt_major=11,
        filename="half.onnx",
    )
    assert "precision_mode" not in text
    config = ModelConfig()
    text_format.Parse(text, config)
    assert config.default_model_filename == "half.onnx"


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec --help", "10.13.3"),
        ("[TensorRT v110201]", "11.2.1"),
        ("[TensorRT v8603]", "8.6.3"),
        ("trtexec: not found", ""),
    ],
)
def test_trtexec_says_its_version(banner: str, version: str) -> None:
    assert version_of(banner) == version
