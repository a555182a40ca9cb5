"""What Whisper's and Moonshine's exports share: attention, the decoder's description and its reference cases.

A decoder is one graph for the first and for later steps: the past may be empty. The keys and values of the
cross attention come out of the encoder graph, once an utterance; those of the decoder's own attention go in and
come out at every step, one longer each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import NUMPY, Case, Feeds, record
from parley_export.onnx_graph import torch_run

MAX_BATCH = 32
MOST_STEPS = 8
"""Tokens of a prompt that are fed at once."""
RECORDED_BYTES = 8 << 20
"""Keys and values of a case are recorded up to this size; of larger models the last layer's only."""
FORBIDDEN = -3.0e38
"""Added to what may not be attended to; not infinite, so that a row without anything stays a number."""


@dataclass(frozen=True)
class Shape:
    """Of a decoder."""

    layers: int
    heads: int
    head_dim: int
    vocabulary: int
    attentions: int
    """Heads whose cross attention is put out."""
    most_tokens: int
    usual_heard: int
    most_heard: int
    """Frames of the encoder."""
    lengths: bool
    """Whether rows may be heard less long than others."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """query, key, value [B, H, S|T, D], query scaled; bias broadcast to [B, H, S, T] -> [B, S, H * D], weights."""
    scores = torch.matmul(query, key.transpose(2, 3))
    weights = torch.softmax(scores if bias is None else scores + bias, -1)
    return torch.matmul(weights, value).transpose(1, 2).flatten(2), weights


def split(hidden: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[B, S, H * D] -> [B, H, S, D]"""
    return hidden.view(hidden.shape[0], hidden.shape[1], -1, head_dim).transpose(1, 2)


def causal(past: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """past [B, H, P, D]: the positions [S] of the tokens that are fed, and what each may not look at [S, P + S]."""
    before = past.shape[2]
    positions = torch.arange(steps) + before
    allowed = torch.arange(before + steps)[None, :] <= positions[:, None]
    return positions, torch.where(allowed, 0.0, FORBIDDEN)


def padding(frames: torch.Tensor, most: int) -> torch.Tensor:
    """frames INT64 [B, 1]: a bias [B, 1, 1, T] against what lies behind a row's end."""
    return torch.where(torch.arange(most)[None, :] < frames, 0.0, FORBIDDEN)[:, None, None, :]


def pick(weights: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
    """[B, H, S, T] -> [B, len(heads), S, T]"""
    return torch.index_select(weights, 1, torch.tensor(list(heads)))


def upper_heads(layers: int, heads: int) -> list[tuple[int, int]]:
    """The (layer, head) that follow the words best where nobody measured: all of the upper half."""
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def names(kind: str, layers: int) -> list[str]:
    return [f"{kind}_{layer:02}_{part}" for layer in range(layers) for part in ("key", "value")]


def cross_tensors(shape: Shape) -> list[Tensor]:
    dims = (shape.heads, "heard", shape.head_dim)
    return [Tensor(name, "FP32", dims) for name in names("cross", shape.layers)]


def decoder_graph(shape: Shape) -> Graph:
    past = [
        Tensor(name, "FP32", (shape.heads, "past", shape.head_dim)) for name in names("past", shape.layers)
    ]
    now = [
        Tensor(name, "FP32", (shape.heads, "past_and_steps", shape.head_dim))
        for name in names("present", shape.layers)
    ]
    ids = Tensor("ids", "INT64", ("steps",), "integers", 0, shape.vocabulary)
    frames = [Tensor("frames", "INT64", (1,), "length:heard")] if shape.lengths else []
    return Graph(
        name="decoder",
        inputs=(ids, *frames, *past, *cross_tensors(shape)),
        outputs=(
            Tensor("logits", "FP32", (shape.vocabulary,)),
            Tensor("attention", "FP32", (shape.attentions, "steps", "heard")),
            *now,
        ),
        axes=(
            Axis("steps", 1, 1, MOST_STEPS),
            Axis("past", 0, min(32, shape.most_tokens), shape.most_tokens),
            Axis("heard", 1, shape.usual_heard, shape.most_heard),
        ),
        derived=(Axis("past_and_steps", 1, 1 + min(32, shape.most_tokens), MOST_STEPS + shape.most_tokens),),
        max_batch=MAX_BATCH,
        tolerance=1e-3,
    )


def decoder_cases(graph: Graph, seed: int = 0) -> list[Case]:
    """Steps with an empty past, one token, several. What is heard is kept short: a real model's would be hundreds of
    megabytes, and the graph does not care."""
    rng = np.random.default_rng(seed)
    most = graph.axis("heard").most
    sizes = {
        "usual, 3 in a batch": (3, 2, 5, min(24, most)),
        "prompt, 2 in a batch": (2, 4, 0, min(17, most)),
        "first token, 1 in a batch": (1, 1, 0, 1),
        "later token, 3 in a batch": (3, 1, 33, min(40, most)),
        "last token, 1 in a batch": (1, 1, graph.axis("past").most - 1, min(9, most)),
    }
    return [Case(name, [_feeds(graph, rng, *size)]) for name, size in sizes.items()]


def _feeds(graph: Graph, rng: np.random.Generator, rows: int, steps: int, past: int, heard: int) -> Feeds:
    axes = {"steps": steps, "past": past, "heard": heard}
    feeds: Feeds = {}
    for tensor in graph.inputs:
        shape = [rows, *(axes[dim] if isinstance(dim, str) else dim for dim in tensor.dims)]
        kind = NUMPY[tensor.dtype]
        if tensor.name == "frames":
            feeds["frames"] = np.maximum(heard - 3 * np.arange(rows), 1).astype(kind).reshape(rows, 1)
        elif tensor.name == "ids":
            feeds["ids"] = rng.integers(0, int(tensor.high), shape).astype(kind)
        else:
            feeds[tensor.name] = rng.standard_normal(shape).astype(kind)
    return feeds


def encoder_cases(graph: Graph, module: nn.Module, inputs: dict[str, Feeds]) -> list[Case]:
    """inputs: by the case's name. All outputs are recorded, or of a large model the hidden states and the last
    layer's keys and values."""
    cases = []
    for name, feeds in inputs.items():
        case = Case(name, [feeds])
        record(graph, case, torch_run(graph, module))
        made = case.expected[0]
        cross = [output for output in made if output.startswith("cross_")]
        if sum(made[output].nbytes for output in cross) > RECORDED_BYTES:
            for output in cross[:-2]:
                del made[output]
        cases.append(case)
    return cases
