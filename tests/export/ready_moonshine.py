"""Graphs with the interface of Moonshine's ready-made ones, from a model of random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import nn

from parley_export.families.moonshine import Decoder, Encoder
from parley_export.seq2seq import split

NO_ALIGNMENT = [(0, 0)]
LAYERS = 2


class ReadyEncoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = Encoder(model)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.encoder(audio, torch.ones_like(audio[:, :1], dtype=torch.int64) * audio.shape[1])[0]


class First(nn.Module):
    """The branch without a past: logits, and present keys and values of decoder and encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = Decoder(model, NO_ALIGNMENT)
        self.layers = model.model.decoder.layers

    def forward(self, ids: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heard = [layer.encoder_attn for layer in self.layers]
        cross = [split(made(hidden), one.head_dim) for one in heard for made in (one.k_proj, one.v_proj)]
        heads, size = cross[0].shape[1], cross[0].shape[3]
        past = [torch.zeros(1, heads, 0, size) for _ in cross]
        return self._told(self.decoder(ids, _frames(hidden), *past, *cross), cross)

    def _told(self, made: Any, cross: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        logits, _, *present = made
        told = [logits[:, None]]
        for at in range(LAYERS):
            told += [*present[2 * at : 2 * at + 2], *cross[2 * at : 2 * at + 2]]
        return tuple(told)


class Later(First):
    """Its encoder's present is of no use, as in the merged graphs that optimum makes."""

    def forward(
        self, ids: torch.Tensor, hidden: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        own = [one for at in range(LAYERS) for one in past[4 * at : 4 * at + 2]]
        cross = [one for at in range(LAYERS) for one in past[4 * at + 2 : 4 * at + 4]]
        made = self.decoder(ids, _frames(hidden), *own, *cross)
        return self._told(made, [torch.zeros(1, one.shape[1], 1, one.shape[3]) for one in cross])


def write(model: Any, folder: Path, *, ort: bool) -> None:
    """encoder_model and decoder_model_merged."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = {"input_values": {1: "samples"}, "last_hidden_state": {1: "frames"}}
    encoder = folder / "encoder_model.onnx"
    _export(
        ReadyEncoder(model), (torch.rand(1, 9000),), encoder, ["input_values"], ["last_hidden_state"], axes
    )
    merged = folder / "decoder_model_merged.onnx"
    onnx.save(_merged(model, folder), merged)
    for path in (encoder, merged) if ort else ():
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path.with_suffix(".ort"))
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.unlink()


def _merged(model: Any, folder: Path) -> onnx.ModelProto:
    kinds = [
        (at, side, part)
        for at in range(LAYERS)
        for side in ("decoder", "encoder")
        for part in ("key", "value")
    ]
    past = [f"past_key_values.{at}.{side}.{part}" for at, side, part in kinds]
    present = [f"present.{at}.{side}.{part}" for at, side, part in kinds]
    hidden = torch.rand(1, 20, model.config.hidden_size)
    ids = torch.tensor([[1]])
    outputs = ["logits", *present]
    axes: dict[str, dict[int, str]] = {"encoder_hidden_states": {1: "frames"}}
    axes |= {name: {2: "heard" if ".encoder." in name else "past"} for name in past}
    common = ["input_ids", "encoder_hidden_states"]
    first, later = folder / "first.onnx", folder / "later.onnx"
    _export(First(model), (ids, hidden), first, common, outputs, axes)
    made = First(model)(ids, hidden)[1:]
    _export(Later(model), (ids, hidden, *made), later, [*common, *past], outputs, axes)
    branches = {}
    for name, path in (("else_branch", first), ("then_branch", later)):
        graph = onnx.compose.add_prefix_graph(
            onnx.load(path).graph, f"{name}/", rename_inputs=False, rename_outputs=False
        )
        given = list(graph.input)
        del graph.input[:]
        branches[name] = graph
        path.unlink()
    names = [value.name for value in given]
    given += [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, "past", 16])
        for name in past
        if name not in names
    ]
    given.append(helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    node = helper.make_node("If", ["use_cache_branch"], outputs, **branches)
    told = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, model.config.vocab_size])
        if name == "logits"
        else helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, "later", 16])
        for name in outputs
    ]
    graph = helper.make_graph([node], "merged", given, told)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _export(
    module: nn.Module,
    args: Any,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> None:
    named = {name: axes[name] for name in (*inputs, *outputs) if name in axes}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer is deprecated, and simplest for a graph with branches
        torch.onnx.export(
            module.eval(), args, str(path), input_names=inputs, output_names=outputs, dynamic_axes=named,
            opset_version=18, dynamo=False,
        )  # fmt: skip


def _frames(hidden: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(hidden[:, :1, 0], dtype=torch.int64) * hidden.shape[1]
