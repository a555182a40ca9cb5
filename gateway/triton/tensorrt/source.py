"""What an engine is built from: the graph, or its copy in FP16 where the version takes precision from it alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.exported.environment import run_python
from gateway.triton.tensorrt.half import check_half
from gateway.triton.tensorrt.script import needs_fp16_graph

HALF = "model.fp16.onnx"
NOT_STOOD = 3
"""Exit code of `parley_export.half` where a graph does not stand FP16."""


@dataclass(frozen=True, slots=True)
class Source:
    onnx: Path
    precision: str
    """That it is built in."""
    why: str = ""
    """A sentence where that is not the one asked for."""


async def source_of(folder: Path, version: str, precision: str) -> Source:
    """Of a graph's folder. A graph that does not stand FP16 is one for FP32.

    Raises: ValueError, GraphError, ExportUnavailable, OSError.
    """
    onnx = folder / "1" / "model.onnx"
    if not onnx.exists():
        raise ValueError(
            f"{folder} has no 1/model.onnx, which TensorRT builds from: export it from a checkpoint or from .onnx files"
        )
    if not needs_fp16_graph(version, precision):
        return Source(onnx, precision)
    half = folder / "tensorrt" / HALF
    if half.exists() and half.stat().st_mtime >= onnx.stat().st_mtime and not await _missed(folder, half):
        return Source(half, precision)
    half.parent.mkdir(exist_ok=True)
    code = await run_python(["-m", "parley_export.half", str(folder), str(half)])
    if code not in (0, NOT_STOOD):
        raise ValueError(f"{onnx} could not be made FP16: its reason is above")
    why = f"{folder.name} does not stand FP16" if code else await _missed(folder, half)
    if not why:
        return Source(half, precision)
    for stale in (half, folder / "1" / HALF):
        stale.unlink(missing_ok=True)
    return Source(onnx, "fp32", why)


async def _missed(folder: Path, half: Path) -> str:
    return await asyncio.to_thread(check_half, folder, half)
