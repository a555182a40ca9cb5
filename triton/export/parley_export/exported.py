"""What a family's exporter hands over: graphs with their descriptions, the front's settings and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gateway.triton.exported.description import Graph
from gateway.triton.exported.reference import Case


@dataclass
class GraphExport:
    """One graph: a torch module to export, or an ONNX file that is ready."""

    graph: Graph
    module: nn.Module | None = None
    """forward(*inputs, [start], *states) -> (*outputs, *new states), in the description's order."""
    path: Path | None = None
    """A ready-made graph. With a module as well, the module is what it is held against."""
    dynamo: bool = True
    """Exported by torch.export; False: by the older tracer."""
    cases: list[Case] | None = None
    """Reference inputs; None: made from the description."""
    filename: str = "model.onnx"
    """In the version folder; model.ort where the graph is in ONNX Runtime's own format."""


@dataclass
class Exported:
    """A whole model."""

    name: str
    """Its default name, without asr_ or tts_: whisper_small."""
    kind: str
    """asr, tts, or codec: graphs alone, without a front."""
    engine: str
    """What makes its words or its sound: whisper, vits, …"""
    graphs: list[GraphExport]
    front: dict[str, Any] = field(default_factory=dict)
    """front.json: its "kind" picks the front's code, the rest is that code's own. "graphs" is filled in."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Into the version folder, beside front.json."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Of config.pbtxt: languages, voices, sample_rate, memory_mb, tags, …"""
    license: str = ""
    """SPDX expression of the weights' licence."""
    license_text: str = ""
    front_reference: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """What the whole model must say: audio_0, tokens_0, text_0 …; text_0, seed_0, audio_0 … of a voice."""
