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
_MIG = re.compile(r"^\s*MIG (\d+g\.\d+gb[+.\w]*)\s+Device", re.MULTILINE)
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
    mig: str = ""
    """MIG profile of the slice that is here, as 1g.18gb; "" for a whole GPU."""

    @property
    def place(self) -> str:
        """A folder's name for what is built here, and is good here alone: GPU, MIG profile, TensorRT."""
        gpu = "-".join(re.findall(r"[a-z0-9]+", self.gpu.lower())) or "gpu"
        slice_ = f"-mig-{self.mig}" if self.mig else ""
        return f"{gpu}{slice_}-sm{self.compute_capability.replace('.', '')}-trt{self.tensorrt}"


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
    mig = _mig(await _ask("nvidia-smi", "-L") or "")
    trtexec = next((found for place in ("trtexec", *_PLACES) if (found := shutil.which(place))), None)
    if python or trtexec is None:
        version, why = await wheel_version(python or sys.executable)
        if version:
            return Builder("", version, capability.strip(), name.strip(), python or sys.executable, mig), ""
        if python:
            return None, f"{python} has no TensorRT to build with ({why})"
        return None, (
            "neither trtexec, which is part of TensorRT and of its container, nor the tensorrt wheel is here "
            f"({why}): pip install tensorrt into some environment, and name its Python with --python"
        )
    version = version_of(await _ask(trtexec, "--help") or "")
    if not version:
        return None, f"{trtexec} does not say its version"
    return Builder(trtexec, version, capability.strip(), name.strip(), mig=mig), ""


def _mig(listed: str) -> str:
    """Of `nvidia-smi -L`, which in a container lists what the container has: "  MIG 1g.18gb  Device 0: (UUID: …)"."""
    found = _MIG.search(listed)
    return found[1] if found else ""


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
