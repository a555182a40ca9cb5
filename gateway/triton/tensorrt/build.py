"""Building an engine, or taking it from the cache, and holding it against torch before anybody serves it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph
from gateway.triton.exported.reference import NUMPY, Feeds, compare, load
from gateway.triton.proof.proved import Proved, of_rows
from gateway.triton.tensorrt.keys import TOLERANCE, engine_key
from gateway.triton.tensorrt.machine import Builder
from gateway.triton.tensorrt.process import BUILD_S, BuildFailed, reason, run_program
from gateway.triton.tensorrt.profiles import Profile, profile_for, spelled
from gateway.triton.tensorrt.script import trtexec_command
from gateway.triton.tensorrt.wheel import WheelRun, build_with_wheel

PLAN, LOG, TIMING = "model.plan", "build.log", "timing.cache"


@dataclass(frozen=True, slots=True)
class Engine:
    plan: Path
    cached: bool
    """It was there already."""
    parity: Proved


async def build_engine(
    graph: Graph,
    folder: Path,
    onnx: Path,
    profiles: Sequence[Profile],
    builder: Builder,
    *,
    precision: str,
    cache: Path,
) -> Engine:
    """The engine of a graph for this machine.

    folder: of the graph's model, for its reference; onnx: what is built from, in FP16 already where TensorRT wants it.
    Raises: BuildFailed, OSError, ValueError.
    """
    key = engine_key(onnx, builder.tensorrt, builder.compute_capability, precision, profiles)
    # Another GPU of the same capability, or a slice of it, would run the plan, with tactics timed for other cores.
    place = cache / builder.place / key.folder()
    cached = (place / PLAN).exists()
    if not cached:
        await _build(graph, onnx, profiles, builder, precision, place, cache / builder.place / TIMING)
    parity = await asyncio.to_thread(_parity, graph, folder, place / PLAN, builder, precision, profiles)
    return Engine(place / PLAN, cached, parity)


async def _build(
    graph: Graph,
    onnx: Path,
    profiles: Sequence[Profile],
    builder: Builder,
    precision: str,
    place: Path,
    timing: Path,
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        if builder.trtexec:
            command = trtexec_command(
                onnx, work / PLAN, timing, profiles, version=builder.tensorrt, precision=precision,
                trtexec=builder.trtexec,
            )  # fmt: skip
            code, said = await run_program(command, BUILD_S)
        else:
            code, said = await build_with_wheel(
                onnx, work / PLAN, timing, profiles,
                python=builder.python, tensorrt=builder.tensorrt, precision=precision,
            )  # fmt: skip
        (work / LOG).write_text(said, "utf-8")
        if code or not (work / PLAN).exists():
            what = "trtexec" if builder.trtexec else "the tensorrt wheel's build"
            raise BuildFailed(f"graph {graph.name}: {what} ended with {code}: {reason(said)}")
        shutil.rmtree(place, ignore_errors=True)
        os.rename(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _parity(
    graph: Graph, folder: Path, plan: Path, builder: Builder, precision: str, profiles: Sequence[Profile]
) -> Proved:
    run = (
        TrtexecRun(graph, plan, builder.trtexec, profiles)
        if builder.trtexec
        else WheelRun(graph, plan, python=builder.python, tensorrt=builder.tensorrt)
    )
    rows = compare(
        graph,
        load(folder / "reference.npz"),
        run,
        tolerance=graph.tolerance * TOLERANCE[precision],
    )
    return of_rows(folder.name, f"TensorRT {builder.tensorrt} {precision}", rows)


class TrtexecRun:
    """`run` of a reference's cases by trtexec itself: tensors go in and come out as files."""

    def __init__(self, graph: Graph, plan: Path, trtexec: str, profiles: Sequence[Profile]) -> None:
        self._graph, self._plan, self._trtexec, self._profiles = graph, plan, trtexec, profiles

    def __call__(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """Blocks. Raises: BuildFailed."""
        with tempfile.TemporaryDirectory(prefix="parley-trtexec-") as name:
            work = Path(name)
            files = []
            for tensor in self._graph.input_names:
                np.ascontiguousarray(feeds[tensor]).tofile(work / f"{tensor}.bin")
                files.append(f"{tensor}:{work / tensor}.bin")
            shapes = {tensor: feeds[tensor].shape for tensor in self._graph.input_names}
            chosen = (
                [f"--useProfile={profile_for(self._profiles, shapes)}"] if len(self._profiles) > 1 else []
            )
            command = [
                self._trtexec, f"--loadEngine={self._plan}", f"--shapes={spelled(shapes)}", *chosen, f"--loadInputs={','.join(files)}",
                f"--exportOutput={work / 'out.json'}", "--iterations=1", "--warmUp=0", "--duration=0",
            ]  # fmt: skip
            code, said = asyncio.run(run_program(command, BUILD_S))
            if code:
                raise BuildFailed(f"graph {self._graph.name}: the engine does not run: {reason(said)}")
            return self._read(json.loads((work / "out.json").read_text("utf-8")))

    def _read(self, told: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        types = {tensor.name: NUMPY[tensor.dtype] for tensor in self._graph.all_outputs()}
        found = {}
        for one in told:
            if one["name"] in types:
                shape = [int(dim) for dim in str(one["dimensions"]).split("x") if dim]
                found[one["name"]] = np.array(one["values"]).astype(types[one["name"]]).reshape(shape)
        return found
