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
from gateway.triton.tensorrt.profiles import Profile, spelled
from gateway.triton.tensorrt.script import trtexec_command

BUILD_S = 3_600.0
PLAN, LOG, TIMING = "model.plan", "build.log", "timing.cache"


class BuildFailed(Exception):
    """`str()` is a sentence with the last that trtexec said."""


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
    place = cache / key.folder()
    cached = (place / PLAN).exists()
    if not cached:
        await _build(graph, onnx, profiles, builder, precision, place, cache / _timing_name(builder))
    parity = await asyncio.to_thread(_parity, graph, folder, place / PLAN, builder, precision)
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
        command = trtexec_command(
            onnx, work / PLAN, timing, profiles, version=builder.tensorrt, precision=precision,
            trtexec=builder.trtexec,
        )  # fmt: skip
        code, said = await _run(command, BUILD_S)
        (work / LOG).write_text(said, "utf-8")
        if code or not (work / PLAN).exists():
            raise BuildFailed(f"graph {graph.name}: trtexec ended with {code}: {_reason(said)}")
        shutil.rmtree(place, ignore_errors=True)
        os.rename(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _timing_name(builder: Builder) -> str:
    """One for all engines of a TensorRT and a kind of GPU: what was timed for one graph helps the next."""
    return f"{TIMING}-trt{builder.tensorrt}-sm{builder.compute_capability.replace('.', '')}"


def _parity(graph: Graph, folder: Path, plan: Path, builder: Builder, precision: str) -> Proved:
    rows = compare(
        graph,
        load(folder / "reference.npz"),
        TrtexecRun(graph, plan, builder.trtexec),
        tolerance=graph.tolerance * TOLERANCE[precision],
    )
    return of_rows(folder.name, f"TensorRT {builder.tensorrt} {precision}", rows)


class TrtexecRun:
    """`run` of a reference's cases by trtexec itself: tensors go in and come out as files."""

    def __init__(self, graph: Graph, plan: Path, trtexec: str) -> None:
        self._graph, self._plan, self._trtexec = graph, plan, trtexec

    def __call__(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """Blocks. Raises: BuildFailed."""
        with tempfile.TemporaryDirectory(prefix="parley-trtexec-") as name:
            work = Path(name)
            files = []
            for tensor in self._graph.input_names:
                np.ascontiguousarray(feeds[tensor]).tofile(work / f"{tensor}.bin")
                files.append(f"{tensor}:{work / tensor}.bin")
            shapes = spelled({tensor: feeds[tensor].shape for tensor in self._graph.input_names})
            command = [
                self._trtexec, f"--loadEngine={self._plan}", f"--shapes={shapes}", f"--loadInputs={','.join(files)}",
                f"--exportOutput={work / 'out.json'}", "--iterations=1", "--warmUp=0", "--duration=0",
            ]  # fmt: skip
            code, said = asyncio.run(_run(command, BUILD_S))
            if code:
                raise BuildFailed(f"graph {self._graph.name}: the engine does not run: {_reason(said)}")
            return self._read(json.loads((work / "out.json").read_text("utf-8")))

    def _read(self, told: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        types = {tensor.name: NUMPY[tensor.dtype] for tensor in self._graph.all_outputs()}
        found = {}
        for one in told:
            if one["name"] in types:
                shape = [int(dim) for dim in str(one["dimensions"]).split("x") if dim]
                found[one["name"]] = np.array(one["values"]).astype(types[one["name"]]).reshape(shape)
        return found


async def _run(command: Sequence[str], deadline_s: float) -> tuple[int, str]:
    """Exit code and everything it said. Cancelled or late, it is killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), deadline_s)
    except TimeoutError:
        raise BuildFailed(f"{command[0]} did not end within {deadline_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace")


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return (errors or lines or ["it said nothing"])[-1]
