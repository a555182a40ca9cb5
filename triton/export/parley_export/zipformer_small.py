"""A stand-in for icefall's streaming zipformer2 with random weights, which no package installs.

Its three files have the interface of the real ones: names, order, shapes and types of inputs, outputs and states,
the batch dimension where the real ones have it, metadata, tokens.txt. Inside are plain attention and convolutions
that use every state; nothing about it says how fast or how good a real zipformer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from gateway.triton.models.features_fbank import Fbank
from parley_export.sounds import bursts
from parley_export.tokens import made_vocabulary

BLANKS = 0.7
CHUNK, PAD = 32, 13
"""Mel frames from chunk to chunk, and how many more the stem needs (icefall: 7 + 2 * 3)."""
STEM = (128, 3, 19)
"""embed_states: channels, frames kept, bands."""
CONTEXT = 2


@dataclass(frozen=True)
class Sizes:
    layers: int = 2
    width: int = 48
    heads: int = 2
    key: int = 24
    value: int = 24
    left: int = 32
    """Frames of left context at 20 ms."""
    kernel: int = 9
    vocabulary: int = 64


class Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, gated = sizes.width, 3 * sizes.width // 4
        self.sizes = sizes
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, sizes.key), nn.Linear(width, sizes.key)
        self.values = nn.ModuleList(nn.Linear(width, sizes.value) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(sizes.value, width) for _ in range(2))
        self.gate, self.gated = nn.Linear(width, gated), nn.Linear(gated, width)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, sizes.kernel // 2 + 1, groups=width) for _ in range(2)
        )

    def forward(self, x: Any, heard: Any, states: tuple[Any, ...]) -> tuple[Any, list[Any]]:
        """x [N, T, width]; heard [N] frames before this chunk; states as icefall lays them out."""
        keys, gates, *rest = states
        left, told = self.sizes.left, self.norm(x)
        key = torch.cat([keys.transpose(0, 1), self.key(told)], 1)
        scores = self.query(told) @ key.transpose(1, 2) * self.sizes.key**-0.5
        known = torch.arange(key.shape[1])[None] >= (left - torch.clamp(heard, max=left))[:, None]
        weights = torch.softmax(torch.where(known[:, None], scores, torch.tensor(-1e4)), -1)
        gate = torch.cat([gates[0], torch.tanh(self.gate(told))], 1)
        x = x + self.gated(weights @ gate)
        kept = [key[:, -left:].transpose(0, 1), gate[None, :, -left:]]
        for at in range(2):
            value = torch.cat([rest[at].transpose(0, 1), self.values[at](told)], 1)
            x = x + self.outs[at](weights @ value)
            kept.append(value[:, -left:].transpose(0, 1))
        for at in range(2):
            whole = torch.cat([rest[2 + at], torch.tanh(x).transpose(1, 2)], 2)
            x = x + self.convs[at](whole).transpose(1, 2)
            kept.append(whole[:, :, -rest[2 + at].shape[2] :])
        return x, kept


class Encoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        channels, _, bands = STEM
        self.stem = nn.Conv2d(1, channels, (8, 8), stride=(2, 4))
        self.mix = nn.Conv2d(channels, channels, (7, 1), groups=channels)
        self.project = nn.Linear(channels * bands, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.out = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, x: Any, *states: Any) -> tuple[Any, ...]:
        stem, heard = states[-2], states[-1]
        hidden = torch.tanh(self.stem(x[:, None]))
        frames = hidden.shape[2] - 3
        mixed = self.mix(torch.cat([stem, hidden], 2))
        hidden_states = [hidden[:, :, frames - 3 : frames]]
        y = self.project(mixed.transpose(1, 2).flatten(2))
        kept: list[Any] = []
        for number, layer in enumerate(self.layers):
            y, new = layer(y, heard, states[6 * number : 6 * number + 6])
            kept += new
        y = self.norm(y[:, 0::2] + y[:, 1::2])
        return self.out(y), *kept, *hidden_states, heard + frames


class Decoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.conv = nn.Conv1d(sizes.width, sizes.width, CONTEXT, groups=sizes.width)

    def forward(self, y: Any) -> Any:
        return torch.tanh(self.conv(self.embedding(y).transpose(1, 2))[:, :, 0])


class Joiner(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.out = nn.Linear(sizes.width, sizes.vocabulary)

    def forward(self, encoder_out: Any, decoder_out: Any) -> Any:
        return self.out(torch.tanh(encoder_out + decoder_out))


@dataclass
class Small:
    sizes: Sizes
    encoder: Encoder
    decoder: Decoder
    joiner: Joiner


def build(seed: int, sizes: Sizes | None = None) -> Small:
    """Random weights that hear something: blank wins BLANKS of the frames."""
    torch.manual_seed(seed)
    sizes = sizes or Sizes()
    made = Small(sizes, Encoder(sizes).eval(), Decoder(sizes).eval(), Joiner(sizes).eval())
    with torch.no_grad():
        for module in (made.encoder, made.decoder, made.joiner):
            for weight in module.parameters():
                weight.requires_grad_(False)
                if weight.dim() > 1:
                    weight.normal_(0, weight[0].numel() ** -0.5)
        made.encoder.stem.weight -= made.encoder.stem.weight.mean((2, 3), keepdim=True)
        made.encoder.out.weight.mul_(2.0)
        made.decoder.embedding.weight.mul_(6.0)
        made.joiner.out.weight.mul_(2.0)
        heard = torch.from_numpy(Fbank({"kind": "kaldi"}).whole(bursts(6.0, 1)))
        chunks = heard.unfold(0, CHUNK + PAD, CHUNK).transpose(1, 2)
        frames = made.encoder(chunks, *empty(sizes, len(chunks)))[0].flatten(0, 1)
        contexts = torch.randint(0, sizes.vocabulary, (48, CONTEXT))
        logits = made.joiner(frames[None], made.decoder(contexts)[:, None])
        lead = logits[..., 1:].amax(-1) - logits[..., 0]
        made.joiner.out.bias[0] += torch.quantile(lead.flatten()[: 1 << 20], BLANKS)
    return made


def state_dims(sizes: Sizes) -> dict[str, tuple[tuple[int, ...], int]]:
    """Name -> (dimensions without the batch, where the batch goes), in the files' order."""
    gated, side = 3 * sizes.width // 4, sizes.kernel // 2
    dims: dict[str, tuple[tuple[int, ...], int]] = {}
    for number in range(sizes.layers):
        dims[f"cached_key_{number}"] = ((sizes.left, sizes.key), 1)
        dims[f"cached_nonlin_attn_{number}"] = ((1, sizes.left, gated), 1)
        dims[f"cached_val1_{number}"] = ((sizes.left, sizes.value), 1)
        dims[f"cached_val2_{number}"] = ((sizes.left, sizes.value), 1)
        dims[f"cached_conv1_{number}"] = ((sizes.width, side), 0)
        dims[f"cached_conv2_{number}"] = ((sizes.width, side), 0)
    dims["embed_states"] = (STEM, 0)
    dims["processed_lens"] = ((), 0)
    return dims


def empty(sizes: Sizes, count: int) -> list[Any]:
    made = []
    for name, (dims, batch) in state_dims(sizes).items():
        shape = [*dims[:batch], count, *dims[batch:]]
        made.append(torch.zeros(shape, dtype=torch.int64 if name == "processed_lens" else torch.float32))
    return made


def write(small: Small, folder: Path) -> None:
    """encoder.onnx, decoder.onnx, joiner.onnx and tokens.txt as sherpa-onnx's folders have them."""
    sizes = small.sizes
    dims = state_dims(sizes)
    axes = {"x": {0: "N"}, "encoder_out": {0: "N"}}
    for name, (_, batch) in dims.items():
        axes[name] = axes[f"new_{name}"] = {batch: "N"}
    told = {
        "model_type": "zipformer2", "version": "1", "model_author": "k2-fsa", "decode_chunk_len": str(CHUNK),
        "T": str(CHUNK + PAD), "num_encoder_layers": str(sizes.layers), "encoder_dims": str(sizes.width),
        "cnn_module_kernels": str(sizes.kernel), "left_context_len": str(sizes.left), "num_heads": str(sizes.heads),
        "query_head_dims": str(sizes.key // sizes.heads), "value_head_dims": str(sizes.value // sizes.heads),
    }  # fmt: skip
    x = torch.zeros(2, CHUNK + PAD, 80)
    outputs = ["encoder_out", *(f"new_{name}" for name in dims)]
    _file(folder / "encoder.onnx", small.encoder, (x, *empty(sizes, 2)), ["x", *dims], outputs, axes, told)
    told = {"context_size": str(CONTEXT), "vocab_size": str(sizes.vocabulary)}
    context = torch.zeros(2, CONTEXT, dtype=torch.int64)
    axes = {"y": {0: "N"}, "decoder_out": {0: "N"}}
    _file(folder / "decoder.onnx", small.decoder, (context,), ["y"], ["decoder_out"], axes, told)
    both, width = ["encoder_out", "decoder_out"], torch.zeros(2, sizes.width)
    axes = {name: {0: "N"} for name in (*both, "logit")}
    told = {"joiner_dim": str(sizes.width)}
    _file(folder / "joiner.onnx", small.joiner, (width, width), both, ["logit"], axes, told)
    pieces = made_vocabulary(sizes.vocabulary, first=["<blk>", "<sos/eos>", "<unk>"])
    lines = [f"{piece} {number}\n" for number, piece in enumerate(pieces)]
    (folder / "tokens.txt").write_text("".join(lines), "utf-8")


def _file(
    path: Path,
    module: nn.Module,
    args: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    axes: Mapping[str, Mapping[int, str]],
    told: Mapping[str, str],
) -> None:
    torch.onnx.export(
        module, args, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes,
        opset_version=13, dynamo=False,
    )  # fmt: skip
    model = onnx.load(str(path))
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
