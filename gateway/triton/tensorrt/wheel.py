"""TensorRT by its Python wheel, in a process of the interpreter that has it; it is never imported here."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph
from gateway.triton.exported.reference import NUMPY, Feeds
from gateway.triton.tensorrt.process import BUILD_S, BuildFailed, reason, run_program
from gateway.triton.tensorrt.profiles import Profile
from gateway.triton.tensorrt.wheel_found import WORKER


async def build_with_wheel(
    onnx: Path,
    plan: Path,
    timing_cache: Path,
    profiles: Sequence[Profile],
    *,
    python: str,
    tensorrt: str,
    precision: str,
    deadline_s: float = BUILD_S,
) -> tuple[int, str]:
    """Exit code and everything it said, as trtexec would have. timing_cache: read, and written again.

    Raises: BuildFailed, OSError.
    """
    request = {
        "tensorrt": tensorrt,
        "onnx": str(onnx),
        "plan": str(plan),
        "timing_cache": str(timing_cache),
        "precision": precision,
        "profiles": [dict(profile.shapes) for profile in profiles],
    }
    with tempfile.TemporaryDirectory(prefix="parley-tensorrt-") as name:
        return await _worker(python, "build", request, Path(name), deadline_s)


class WheelRun:
    """`run` of a reference's cases: tensors go into its process and come out of it as files."""

    def __init__(
        self, graph: Graph, plan: Path, *, python: str, tensorrt: str, deadline_s: float = BUILD_S
    ) -> None:
        self._graph, self._plan = graph, plan
        self._python, self._tensorrt, self._deadline_s = python, tensorrt, deadline_s

    def __call__(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """Blocks. Raises: BuildFailed, OSError."""
        with tempfile.TemporaryDirectory(prefix="parley-tensorrt-") as name:
            work = Path(name)
            inputs = {}
            for tensor in self._graph.all_inputs():
                value = np.ascontiguousarray(feeds[tensor.name], NUMPY[tensor.dtype])
                value.tofile(work / f"{tensor.name}.in")
                inputs[tensor.name] = {"file": str(work / f"{tensor.name}.in"), "shape": value.shape}
            request = {
                "tensorrt": self._tensorrt, "plan": str(self._plan), "inputs": inputs, "out": str(work),
            }  # fmt: skip
            code, said = asyncio.run(_worker(self._python, "run", request, work, self._deadline_s))
            if code:
                raise BuildFailed(f"graph {self._graph.name}: the engine does not run: {reason(said)}")
            shapes = json.loads((work / "shapes.json").read_text("utf-8"))
            return {
                tensor.name: np.fromfile(work / f"{tensor.name}.bin", NUMPY[tensor.dtype]).reshape(
                    shapes[tensor.name]
                )
                for tensor in self._graph.all_outputs()
                if tensor.name in shapes
            }


async def _worker(
    python: str, what: str, request: Mapping[str, Any], work: Path, deadline_s: float
) -> tuple[int, str]:
    path = work / "request.json"
    path.write_text(json.dumps(request), "utf-8")
    return await run_program([python, str(WORKER), what, str(path)], deadline_s)
