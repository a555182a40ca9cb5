"""How Triton is told to use TensorRT: a plan of its own, or ONNX Runtime's TensorRT provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.triton.exported.description import Graph
from gateway.triton.exported.pbtxt import explicit_config, implicit_config
from gateway.triton.tensorrt.profiles import Profile, spelled
from gateway.triton.tensorrt.script import STRONG_TYPING

ENGINES = "/engines"
"""Where a volume for engines is mounted in Triton's container."""
PROVIDER = "configs/tensorrt.pbtxt"
"""Taken by a Triton that is started with --model-config-name=tensorrt."""
_GPU = "instance_group [ { kind: KIND_GPU, count: 1 } ]"
_CPU = "instance_group [ { kind: KIND_CPU, count: 1 } ]"


def plan_config(
    name: str, graph: Graph, parameters: Mapping[str, str], *, profiles: int, implicit: bool = False
) -> str:
    """Of a `tensorrt_plan` folder. implicit: Triton keeps the states."""
    text = (implicit_config if implicit else explicit_config)(name, graph, _on_gpu(parameters))
    profile = ", ".join(f'"{number}"' for number in range(profiles))
    return text.replace('backend: "onnxruntime"', 'platform: "tensorrt_plan"').replace(
        _CPU, f"instance_group [ {{ kind: KIND_GPU, count: 1, profile: [ {profile} ] }} ]"
    )


def provider_config(
    name: str,
    graph: Graph,
    parameters: Mapping[str, str],
    profiles: Sequence[Profile],
    *,
    cache: str,
    precision: str,
    tensorrt_major: int,
    implicit: bool = False,
    filename: str = "",
) -> str:
    """The portable path: model.onnx, or `filename` beside it, compiled at the first load into `cache`, a folder on a volume.

    Keys are those that Triton's onnxruntime backend lets through; an unknown one is a load error.
    """
    text = (implicit_config if implicit else explicit_config)(name, graph, _on_gpu(parameters))
    accelerator = provider_parameters(
        profiles, cache=cache, precision=precision, tensorrt_major=tensorrt_major
    )
    lines = "\n".join(
        f'      parameters {{ key: "{key}" value: "{value}" }}' for key, value in accelerator.items()
    )
    block = (
        "optimization { execution_accelerators { gpu_execution_accelerator: [\n"
        f'    {{ name: "tensorrt"\n{lines}\n    }}\n] }} }}'
    )
    if filename:
        block = f'default_model_filename: "{filename}"\n{block}'
    return text.replace(_CPU, f"{_GPU}\n{block}")


def provider_parameters(
    profiles: Sequence[Profile], *, cache: str, precision: str, tensorrt_major: int
) -> dict[str, str]:
    told = {
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "true",
        "trt_timing_cache_path": cache,
    }
    keys = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
    for which, key in enumerate(keys):
        told[key] = _together([profile.column(which) for profile in profiles])
    if precision == "fp16" and tensorrt_major < STRONG_TYPING:
        told["precision_mode"] = "FP16"
    return told


def _together(columns: Sequence[Mapping[str, tuple[int, ...]]]) -> str:
    """ONNX Runtime takes several profiles as one list in which each input is there once for each."""
    return ",".join(spelled({name: column[name]}) for name in columns[0] for column in columns)


def _on_gpu(parameters: Mapping[str, str]) -> dict[str, str]:
    return {**parameters, "needs_gpu": "true"}
