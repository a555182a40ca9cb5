"""Moonshine (MoonshineForConditionalGeneration): raw audio to text, without features. Or a folder of ready-made
graphs (moonshine_ready.py).

Options: language (default en), beam (default 1), tokens_per_s (bound on what is written; default 6.5, as its
documentation bounds English), max_s (default 30), license.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, MoonshineConfig, MoonshineForConditionalGeneration

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import Feeds
from parley_export import seq2seq
from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported, GraphExport
from parley_export.families import moonshine_ready
from parley_export.families.moonshine_ready import CONVOLUTIONS, frames_of
from parley_export.seq2seq import attend, causal, padding, pick, split
from parley_export.seq2seq_front import (
    Decoding,
    license_of,
    memory_mb,
    model_name,
    number,
    reference,
    settling,
    stripped,
)
from parley_export.tokens import made_vocabulary, tokens_file

RATE = 16_000
LEAST = 127 + 64 * 12
"""Samples of one frame."""
FRAME_S = 64 * 3 * 2 / RATE
TOKENS_PER_S, MAX_S = 6.5, 30.0
ENCODER_BATCH = 16
SMALL = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 128, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
    "max_position_embeddings": 96, "initializer_range": 0.2,
}  # fmt: skip


class Encoder(nn.Module):
    """audio [B, N], samples [B, 1] -> hidden [B, T, D], frames [B, 1], and of each decoder layer the cross
    attention's keys and values [B, H, T, D / H]. A row says the same alone as among longer ones."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.encoder
        self.cross = nn.ModuleList(layer.encoder_attn for layer in model.model.decoder.layers)

    def forward(self, audio: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoder = self.encoder
        first, _, third = lengths(samples)
        hidden = _normed(torch.tanh(encoder.conv1(audio.unsqueeze(1))), first, encoder.groupnorm)
        hidden = nn.functional.gelu(encoder.conv2(hidden))
        hidden = nn.functional.gelu(encoder.conv3(hidden)).transpose(1, 2)
        bias = padding(third, hidden.shape[1])
        angles = rotation(encoder.rotary_emb, torch.arange(hidden.shape[1]))
        for layer in encoder.layers:
            own = layer.self_attn
            asked = layer.input_layernorm(hidden)
            query = rotated(split(own.q_proj(asked), own.head_dim), angles) * own.scaling
            key = rotated(split(own.k_proj(asked), own.head_dim), angles)
            heard, _ = attend(query, key, split(own.v_proj(asked), own.head_dim), bias)
            hidden = hidden + own.o_proj(heard)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        hidden = encoder.layer_norm(hidden)
        made = [hidden, third]
        for attention in self.cross:
            made.append(split(attention.k_proj(hidden), attention.head_dim))
            made.append(split(attention.v_proj(hidden), attention.head_dim))
        return tuple(made)


class Decoder(nn.Module):
    """ids [B, S], frames [B, 1], past keys and values [B, H, P, D / H], cross ones -> logits [B, V] after the last
    token, the alignment heads' cross attention [B, A, S, T], keys and values with the new steps."""

    def __init__(self, model: Any, alignment: list[tuple[int, int]]) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.head = model.proj_out
        self.alignment = alignment

    def forward(
        self, ids: torch.Tensor, frames: torch.Tensor, *kept: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        decoder = self.decoder
        count = 2 * len(decoder.layers)
        past, cross = kept[:count], kept[count:]
        positions, bias = causal(past[0], ids.shape[1])
        unheard = padding(frames, cross[0].shape[2])
        angles = rotation(decoder.rotary_emb, positions)
        hidden = decoder.embed_tokens(ids)
        present, seen = [], []
        for at, layer in enumerate(decoder.layers):
            own = layer.self_attn
            asked = layer.input_layernorm(hidden)
            fresh = rotated(split(own.k_proj(asked), own.head_dim), angles)
            key = torch.cat([past[2 * at], fresh], 2)
            value = torch.cat([past[2 * at + 1], split(own.v_proj(asked), own.head_dim)], 2)
            present += [key, value]
            query = rotated(split(own.q_proj(asked), own.head_dim), angles) * own.scaling
            hidden = hidden + own.o_proj(attend(query, key, value, bias)[0])
            other = layer.encoder_attn
            asked = layer.post_attention_layernorm(hidden)
            query = split(other.q_proj(asked), other.head_dim) * other.scaling
            heard, weights = attend(query, cross[2 * at], cross[2 * at + 1], unheard)
            hidden = hidden + other.o_proj(heard)
            chosen = [head for which, head in self.alignment if which == at]
            if chosen:
                seen.append(pick(weights, chosen))
            hidden = hidden + layer.mlp(layer.final_layernorm(hidden))
        logits = self.head(decoder.norm(hidden)[:, -1])
        return (logits, torch.cat(seen, 1), *present)


def lengths(samples: torch.Tensor) -> list[torch.Tensor]:
    """Frames behind each convolution of so many samples."""
    made, count = [], samples
    for kernel, stride in CONVOLUTIONS:
        count = torch.div(count - kernel, stride, rounding_mode="floor") + 1
        made.append(count)
    return made


def _normed(hidden: torch.Tensor, frames: torch.Tensor, norm: Any) -> torch.Tensor:
    """Group normalisation over a row's own frames alone: [B, C, T], frames [B, 1]. Silence behind the end would change
    the mean of what was said."""
    heard = (torch.arange(hidden.shape[2])[None, :] < frames)[:, None, :].to(hidden.dtype)
    count = (frames * hidden.shape[1]).to(hidden.dtype)[:, :, None]
    mean = (hidden * heard).sum((1, 2), keepdim=True) / count
    apart = (hidden - mean) * heard
    scale = torch.rsqrt((apart * apart).sum((1, 2), keepdim=True) / count + norm.eps)
    return apart * scale * norm.weight[None, :, None] + norm.bias[None, :, None] * heard


def rotation(embedding: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """positions [S] -> cosines and sines [S, R], each angle twice."""
    angles = positions.to(torch.float32)[:, None] * embedding.inv_freq[None, :].to(torch.float32)
    twice = torch.stack([angles, angles], -1).flatten(1)
    return twice.cos() * embedding.attention_scaling, twice.sin() * embedding.attention_scaling


def rotated(heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """[B, H, S, D]: neighbours turned by their position; what lies beyond the angles stays."""
    cosines, sines = angles
    turned, rest = heads[..., : cosines.shape[-1]], heads[..., cosines.shape[-1] :]
    across = torch.stack([-turned[..., 1::2], turned[..., 0::2]], -1).flatten(-2)
    return torch.cat([turned * cosines + across * sines, rest], -1)


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    if checkpoint.folder is not None and moonshine_ready.is_ready(checkpoint.folder):
        return moonshine_ready.export(checkpoint, options)
    config = checkpoint.config(MoonshineConfig, SMALL)
    model = checkpoint.model(MoonshineForConditionalGeneration, config, enliven=_enliven)
    decoding = decoding_of(model, options)
    encoder, decoder = graphs(model, decoding.max_s)
    tokens = _tokens(checkpoint, config)
    license_name, license_text = license_of(checkpoint)
    return Exported(
        name=model_name("moonshine", checkpoint),
        kind="asr",
        engine="moonshine",
        graphs=[encoder, decoder],
        front={
            "kind": "buffered",
            "decoder": "seq2seq",
            "decoding": decoding.told(),
            "beam": int(number(options, "beam", 1)),
            **settling(checkpoint, options),
        },
        files={"tokens.json": tokens},
        parameters={
            "languages": options.get("language", "en"),
            "sample_rate": str(RATE),
            "memory_mb": memory_mb(model, shape_of(model, decoding.max_s), ENCODER_BATCH),
        },
        license=options.get("license", license_name),
        license_text=license_text,
        front_reference=reference(
            decoding,
            lambda audio, _, limit: generate(model, audio, limit),
            json.loads(tokens),
            checkpoint.seed,
        ),
    )


def graphs(model: Any, max_s: float) -> tuple[GraphExport, GraphExport]:
    """Encoder and decoder of a MoonshineForConditionalGeneration."""
    config = model.config
    shape = shape_of(model, max_s)
    alignment = seq2seq.upper_heads(shape.layers, shape.heads)
    most = round(max_s * RATE)
    encoder = Encoder(model)
    described = Graph(
        name="encoder",
        inputs=(
            Tensor("audio", "FP32", ("length",), "uniform", -0.5, 0.5),
            Tensor("samples", "INT64", (1,), "length:length"),
        ),
        outputs=(
            Tensor("hidden", "FP32", ("heard", config.hidden_size)),
            Tensor("frames", "INT64", (1,)),
            *seq2seq.cross_tensors(shape),
        ),
        axes=(Axis("length", LEAST, min(5 * RATE, most), most),),
        derived=(Axis("heard", *(frames_of(samples) for samples in (LEAST, min(5 * RATE, most), most))),),
        max_batch=ENCODER_BATCH,
        tolerance=1e-3,
        exact=("frames",),
    )
    decoder = seq2seq.decoder_graph(shape)
    return (
        GraphExport(described, encoder, cases=seq2seq.encoder_cases(described, encoder, _encoder_inputs())),
        GraphExport(decoder, Decoder(model, alignment), cases=seq2seq.decoder_cases(decoder)),
    )


def shape_of(model: Any, max_s: float) -> seq2seq.Shape:
    config = model.config
    attention = model.model.decoder.layers[0].encoder_attn
    layers, heads = config.decoder_num_hidden_layers, attention.k_proj.out_features // attention.head_dim
    return seq2seq.Shape(
        layers=layers, heads=heads, head_dim=attention.head_dim, vocabulary=config.vocab_size,
        attentions=len(seq2seq.upper_heads(layers, heads)), most_tokens=config.max_position_embeddings,
        usual_heard=125, most_heard=frames_of(round(max_s * RATE)), lengths=True,
    )  # fmt: skip


def _encoder_inputs() -> dict[str, Feeds]:
    rng = np.random.default_rng(0)
    sizes = {
        "least, 1 in a batch": [LEAST],
        "usual, 3 in a batch": [24_000, LEAST, 17_001],
        "long, 2 in a batch": [61_000, 80_011],
    }
    made: dict[str, Feeds] = {}
    for name, samples in sizes.items():
        audio = rng.uniform(-0.5, 0.5, (len(samples), max(samples))).astype(np.float32)
        made[name] = {"audio": audio, "samples": np.array(samples, np.int64).reshape(-1, 1)}
    return made


def decoding_of(model: Any, options: Mapping[str, str]) -> Decoding:
    """Raises: ExportError."""
    config, told = model.config, model.generation_config
    end = told.eos_token_id if told.eos_token_id is not None else config.eos_token_id
    start = told.decoder_start_token_id
    return Decoding(
        prompts={"": [int(config.decoder_start_token_id if start is None else start)]},
        eos=[int(one) for one in (end if isinstance(end, (list, tuple)) else [end])],
        most_positions=config.max_position_embeddings,
        tokens_per_s=number(options, "tokens_per_s", TOKENS_PER_S),
        max_s=number(options, "max_s", MAX_S),
        frame_s=FRAME_S,
        median=7,
        least_samples=LEAST,
    )


def generate(model: Any, audio: Any, limit: int, beams: int = 1, **more: Any) -> list[int]:
    """transformers' own greedy (or beam) search over one utterance: the text's tokens."""
    transformers.logging.set_verbosity_error()  # of limits that are set twice
    with torch.no_grad():
        heard = torch.from_numpy(np.asarray(audio, np.float32)[None])
        ids = model.generate(heard, do_sample=False, num_beams=beams, max_new_tokens=limit, **more)[
            0
        ].tolist()
    decoding = decoding_of(model, {})
    return stripped(ids, decoding.prompts[""], decoding.eos)


def _enliven(model: Any) -> None:
    """The end should come now and then within a test's seconds."""
    model.model.decoder.embed_tokens.weight[model.config.eos_token_id].mul_(1.3)
    for layer in model.model.decoder.layers:
        layer.encoder_attn.q_proj.weight.mul_(4.0)
        layer.encoder_attn.o_proj.weight.mul_(3.0)


def _tokens(checkpoint: Checkpoint, config: Any) -> bytes:
    if checkpoint.folder is not None:
        return tokens_file(AutoTokenizer.from_pretrained(checkpoint.folder), size=config.vocab_size)
    first = ["<unk>", "<s>", "</s>"]
    return tokens_file(
        made_vocabulary(config.vocab_size, first=first), special=[0, 1, 2], size=config.vocab_size
    )
