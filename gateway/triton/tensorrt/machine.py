"""What there is to build engines with: a GPU, and trtexec or the `tensorrt` wheel."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from dataclasses import dataclass

from gateway.triton.tensorrt.wheel_found import wheel_version

_PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
_BANNER = re.compile(r"TensorRT v(\d+)")
_CAPABILITY = re.compile(r"\d+\.\d+")
_ASK_S = 30.0


@dataclass(frozen=True, slots=True)
class Builder:
    """Everything that a build needs."""

    trtexec: str
    """Its path, or nothing where the wheel builds."""
    tensorrt: str
    """Version."""
    compute_capability: str
    gpu: str
    python: str = ""
    """That has the wheel."""


async def find_builder(python: str = "") -> tuple[Builder | None, str]:
    """What can build here, or None and a sentence that says what is missing.

    trtexec where it is, else the `tensorrt` wheel of this Python; python: that of this one, whatever else is here.
    """
    gpu = await _ask("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")
    if gpu is None:
        return None, "there is no NVIDIA GPU here (nvidia-smi does not answer)"
    first = gpu.splitlines()[0]
    name, _, capability = first.rpartition(",")
    if not _CAPABILITY.fullmatch(capability.strip()):  # a driver in trouble says so where the GPUs would be
        return None, f"nvidia-smi names no GPU ({first})"
    trtexec = next((found for place in ("trtexec", *_PLACES) if (found := shutil.which(place))), None)
    if python or trtexec is None:
        version, why = await wheel_version(python or sys.executable)
        if version:
            return Builder("", version, capability.strip(), name.strip(), python or sys.executable), ""
        if python:
            return None, f"{python} has no TensorRT to build with ({why})"
        return None, (
            "neither trtexec, which is part of TensorRT and of its container, nor the tensorrt wheel is here "
            f"({why}): pip install tensorrt into some environment, and name its Python with --python"
        )
    version = version_of(await _ask(trtexec, "--help") or "")
    if not version:
        return None, f"{trtexec} does not say its version"
    return Builder(trtexec, version, capability.strip(), name.strip()), ""


def version_of(banner: str) -> str:
    """From trtexec's own "[TensorRT v101303]": major, minor and patch with two digits each but the first."""
    found = _BANNER.search(banner)
    if found is None:
        return ""
    number = int(found[1])
    # Up to 9.x it was one digit each: v8603 is 8.6.3.
    if number < 100_00:
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


async def _ask(*command: str) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError:
        return None
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _ASK_S)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode(errors="replace").strip() or None
