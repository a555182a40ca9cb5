"""All proofs of one exported model: what its folders hold, run in every way this machine has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError
from gateway.triton.exported.reference import load_arrays
from gateway.triton.host import find_wheel
from gateway.triton.model_info import read_config
from gateway.triton.models.exported import read_front
from gateway.triton.models.graphs import GraphError
from gateway.triton.proof.fronts import SESSION, prove_front
from gateway.triton.proof.graphs import prove_graph
from gateway.triton.proof.proved import Proved, failed
from gateway.triton.proof.served import TRITON, prove_served
from gateway.triton.repository import Repository
from gateway.triton.server import EmbeddedTriton

LOAD_S = 180.0
_LOADING = re.compile(r"^load \S+: (\w+Error: )?")
"""Before what a model itself says, which is a sentence."""


def is_exported(folder: Path) -> bool:
    """One that lacks either is an export too, and its proof says what is missing."""
    return (folder / "provenance.json").exists() or (folder / "1" / "front.json").exists()


def graphs_of(folder: Path) -> list[Path]:
    """Folders of the graphs of an exported model. Raises: GraphError."""
    graphs = read_front(folder / "1").get("graphs")
    if not isinstance(graphs, dict) or not all(isinstance(name, str) for name in graphs.values()):
        raise GraphError(f"{folder}/1/front.json names no graphs: export the model again")
    return [folder.parent / name for name in graphs.values()]


async def prove(
    folder: Path, *, on_triton: bool = True, say: Callable[[str], None] = lambda _: None
) -> list[Proved]:
    """Everything that can be proved about an exported model; nothing of it needs torch.

    on_triton: also on an embedded Triton of its own, where this machine has one.
    Raises: GraphError where its folder does not say what it consists of, TritonError.
    """
    graphs = graphs_of(folder)
    found: list[Proved] = []
    for graph in graphs:
        say(f"{graph.name} in ONNX Runtime")
        found += await asyncio.to_thread(prove_graph, graph)
    if on_triton and find_wheel() is not None:
        found += await _on_triton(folder, graphs, say)
    return found


async def _on_triton(folder: Path, graphs: Sequence[Path], say: Callable[[str], None]) -> list[Proved]:
    found: list[Proved] = []
    has_front = (folder / "config.pbtxt").exists()
    async with _server(folder, graphs) as triton:
        for graph in graphs:
            say(f"{graph.name} on Triton")
            if graph.name in triton.failed:
                found.append(failed(graph.name, TRITON, triton.failed[graph.name]))
            else:
                found.append(await asyncio.to_thread(prove_served, graph, triton.grpc))
        if has_front:
            say(f"{folder.name} on Triton")
            found.append(await _front(folder, triton))
    return found


async def _front(folder: Path, triton: EmbeddedTriton) -> Proved:
    channel = open_channel(triton.grpc)
    try:
        config = read_config(folder)
        config.parameters["seed"].string_value = str(_seed(folder))
        await Repository(channel).load(folder.name, config, deadline_s=LOAD_S)
        return await prove_front(folder, channel)
    except (TritonError, ValueError, OSError) as error:
        return failed(folder.name, SESSION, _LOADING.sub("", str(error)))
    finally:
        await channel.close()


def _seed(folder: Path) -> int:
    """Of the noise in the reference; 0 where it was made without any. Raises: ValueError, OSError."""
    told = load_arrays(folder / "reference" / "front.npz")
    return int(told["seed_0"].reshape(-1)[0]) if "seed_0" in told else 0


@asynccontextmanager
async def _server(folder: Path, graphs: Sequence[Path]) -> AsyncIterator[EmbeddedTriton]:
    names = [graph.name for graph in graphs]
    async with EmbeddedTriton([folder.parent], models=names, exit_s=2, on_event=lambda _: None) as triton:
        yield triton
