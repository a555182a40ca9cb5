"""The command that builds an engine: `trtexec`, with what its version knows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gateway.triton.tensorrt.profiles import Profile, spelled

STRONG_TYPING = 11
"""From this major version on precision comes from the graph alone: --fp16 is gone (its migration guide)."""
_FLAGS = ("--minShapes", "--optShapes", "--maxShapes")


def major(version: str) -> int:
    """Raises: ValueError."""
    return int(version.split(".")[0])


def needs_fp16_graph(version: str, precision: str) -> bool:
    """Whether FP16 has to be in the graph already."""
    return precision == "fp16" and major(version) >= STRONG_TYPING


def trtexec_command(
    onnx: Path,
    plan: Path,
    timing_cache: Path,
    profiles: Sequence[Profile],
    *,
    version: str,
    precision: str,
    trtexec: str = "trtexec",
) -> list[str]:
    """onnx: in FP16 already where `needs_fp16_graph`. timing_cache: read, and written again."""
    command = [trtexec, f"--onnx={onnx}", f"--saveEngine={plan}", f"--timingCacheFile={timing_cache}"]
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            command.append(f"--profile={number}")
        command += [f"{flag}={spelled(profile.column(which))}" for which, flag in enumerate(_FLAGS)]
    if precision == "fp16" and not needs_fp16_graph(version, precision):
        # States stay FP32 outside the engine, whatever is computed in between.
        command.append("--fp16")
    if precision == "fp32":
        command.append("--noTF32")  # TF32 changed 4 % of a recogniser's tokens
    return [*command, "--skipInference"]


def build_script(commands: Sequence[Sequence[str]], *, about: str) -> str:
    """A shell script for a machine with the GPU that the engines are for."""
    lines = [
        "#!/usr/bin/env bash",
        f"# {about}",
        "# Engines are tied to the TensorRT version and to the kind of GPU: run this where they will be served,",
        "# with the TensorRT of the Triton that will serve them.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
    ]
    return "\n".join([*lines, *(shlex.join(command) for command in commands), ""])
