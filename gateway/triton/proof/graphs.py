"""A graph in ONNX Runtime against its reference, with explicit states and as Triton's own would be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelSequenceBatching

from gateway.triton.exported.pbtxt import IMPLICIT
from gateway.triton.exported.reference import Case, Feeds, compare, load
from gateway.triton.models.graphs import GraphError, LocalGraph
from gateway.triton.proof.proved import Proved, failed, of_rows

ORT = "ONNX Runtime"
REPLAYED = "implicit state, replayed"


def prove_graph(folder: Path) -> list[Proved]:
    """ORT with explicit states; where the graph has states, also as its implicit config wires them."""
    try:
        graph = LocalGraph(folder)
        cases = load(folder / "reference.npz")
    except (GraphError, ValueError, OSError) as error:
        return [failed(folder.name, ORT, str(error))]
    spec = graph.spec
    found = [of_rows(folder.name, ORT, compare(spec, cases, graph.run))]
    if spec.states:
        found.append(_replayed(folder, graph, cases))
    return found


def _replayed(folder: Path, graph: LocalGraph, cases: list[Case]) -> Proved:
    config = ModelConfig()
    try:
        text_format.Parse((folder / IMPLICIT).read_text("utf-8"), config)
        run = ImplicitStates(config, graph)
    except (OSError, UnicodeDecodeError, text_format.ParseError, ValueError) as error:
        return failed(folder.name, REPLAYED, f"{folder}/{IMPLICIT}: {error}")
    return of_rows(folder.name, REPLAYED, compare(graph.spec, cases, run))


class ImplicitStates:
    """What Triton's sequence batcher does with the states of a config, over one batch of sequences.

    Each row is a sequence. On START its states are set to what `initial_state` says; after each step the
    tensor called output_name becomes the input called input_name (model_configuration.md, "Implicit State").
    """

    def __init__(self, config: ModelConfig, graph: LocalGraph) -> None:
        """Raises: ValueError when the config leaves something open."""
        batching = config.sequence_batching
        self._graph = graph
        self._start = _start_control(batching)
        self._states = list(batching.state)
        self._held: Feeds = {}
        known = (
            {tensor.name for tensor in config.input} | {self._start} | {s.input_name for s in self._states}
        )
        missing = [name for name in graph.spec.input_names if name not in known]
        if missing:
            raise ValueError(f"it gives the graph no {', '.join(missing)}")
        for state in self._states:
            if not any(one.zero_data for one in state.initial_state):
                raise ValueError(f"state {state.input_name} has no initial_state of zeros")

    def __call__(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        """feeds: inputs, and START as the control tensor says it; states in it are not looked at."""
        starts = feeds[self._start][:, 0] > 0.5
        for state in self._states:
            shape = (len(starts), *state.dims)
            held = self._held.get(state.input_name)
            if held is None or held.shape != shape:
                held = np.zeros(shape, np.float32)
            held[starts] = 0
            self._held[state.input_name] = held
        names = {tensor.name for tensor in self._graph.spec.inputs} | {self._start}
        made = self._graph.run({name: feeds[name] for name in names} | self._held)
        self._held = {state.input_name: made[state.output_name].copy() for state in self._states}
        return made


def _start_control(batching: ModelSequenceBatching) -> str:
    for control_input in batching.control_input:
        for control in control_input.control:
            if control.kind == ModelSequenceBatching.Control.CONTROL_SEQUENCE_START:
                if list(control.fp32_false_true) != [0.0, 1.0]:
                    raise ValueError(f"{control_input.name} must be 0 and 1 in FP32")
                return str(control_input.name)
    raise ValueError("it has no START control")
