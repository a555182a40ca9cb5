"""Mimi's decoder as a step: codes of some frames, and what is carried from the frames before, to audio.

Made around the modules of a transformers MimiModel (5.23), whose `decode` of all frames at once is what the
steps together must say. Its own streaming is not that: `decode(..., decoder_past_key_values=…)` carries the
transformer's keys and values alone, so that every convolution meets zeros at the seam of two calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gateway.triton.exported.description import State

Tensors = list[torch.Tensor]


class MimiStep(nn.Module):
    """forward(codes [B, K, frames] int64, start [B, 1], states…) -> audio [B, frames * samples], new states.

    Where `start` is 1 a row begins: whatever its states hold counts as nothing. `states` describes them.
    """

    def __init__(self, model: Any, codebooks: int) -> None:
        """Raises: ValueError for a Mimi that cannot be streamed."""
        super().__init__()
        config = model.config
        _check(config, codebooks)
        self.codebooks = codebooks
        self.semantic = config.num_semantic_quantizers
        self.samples = config.frame_size
        """Of a frame."""
        self.sections = nn.ModuleList(
            [_Codebooks(model.quantizer.semantic_residual_vector_quantizer, self.semantic)]
        )
        if codebooks > self.semantic:
            acoustic = model.quantizer.acoustic_residual_vector_quantizer
            self.sections.append(_Codebooks(acoustic, codebooks - self.semantic))
        decoder = model.decoder
        self.upsample = _UpStep(decoder.upsample.conv) if decoder.upsample is not None else None
        self.transformer = _TransformerStep(decoder.decoder_transformer)
        self.seanet = nn.ModuleList(_seanet(decoder.decoder_seanet))
        self.states = tuple(self._describe())

    def forward(
        self, codes: torch.Tensor, start: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        held = _Held(start, states)
        hidden = self.sections[0](codes[:, : self.semantic])
        if len(self.sections) > 1:
            hidden = hidden + self.sections[1](codes[:, self.semantic :])
        if self.upsample is not None:
            hidden = self.upsample(hidden, held)
        hidden = self.transformer(hidden.transpose(1, 2), held).transpose(1, 2)
        for layer in self.seanet:
            hidden = layer(hidden, held)
        return hidden.flatten(1), *held.new

    def _describe(self) -> Iterator[State]:
        parts = [self.upsample, self.transformer, *self.seanet]
        dims = [one for part in parts if part is not None for one in part.dims()]
        for number, (kind, shape) in enumerate(dims):
            yield State(f"state_{number:02d}_{kind}_in", f"state_{number:02d}_{kind}_out", shape)


class _Held:
    """The states in the order in which the parts ask for them, emptied where a row begins."""

    def __init__(self, start: torch.Tensor, states: tuple[torch.Tensor, ...]) -> None:
        self._begins = start > 0.5
        self._states = iter(states)
        self.new: Tensors = []

    def take(self) -> torch.Tensor:
        state = next(self._states)
        begins = self._begins.reshape(-1, *[1] * (state.dim() - 1))
        return torch.where(begins, torch.zeros_like(state), state)

    def put(self, state: torch.Tensor) -> None:
        self.new.append(state)


class _Codebooks(nn.Module):
    """Of residual codebooks, those that are spoken; their sum in the decoder's space."""

    def __init__(self, quantizer: Any, count: int) -> None:
        super().__init__()
        tables = [layer.codebook.embed.detach().clone() for layer in quantizer.layers[:count]]
        self.tables = nn.ParameterList([nn.Parameter(table, requires_grad=False) for table in tables])
        self.output = quantizer.output_proj

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        found = [functional.embedding(codes[:, number], table) for number, table in enumerate(self.tables)]
        total = found[0]
        for one in found[1:]:
            total = total + one
        total = total.transpose(1, 2)
        return total if self.output is None else self.output(total)


class _ConvStep(nn.Module):
    """A causal convolution: what it looked back at comes from the step before."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv
        self.back = (conv.kernel_size[0] - 1) * conv.dilation[0]

    def dims(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.back:
            yield "conv", (self.conv.in_channels, self.back)

    def forward(self, hidden: torch.Tensor, held: _Held) -> torch.Tensor:
        if self.back:
            hidden = torch.cat([held.take(), hidden], dim=2)
            held.put(hidden[:, :, hidden.shape[2] - self.back :])
        return self.conv(hidden)


class _UpStep(nn.Module):
    """A causal transposed convolution: its tail is added to the next step's head. The bias is added once."""

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        super().__init__()
        self.conv = conv
        self.stride = conv.stride[0]
        self.tail = conv.kernel_size[0] - self.stride
        if self.tail < 1:
            raise ValueError("an upsampling kernel of this Mimi is no longer than its stride")

    def dims(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "up", (self.conv.out_channels, self.tail)

    def forward(self, hidden: torch.Tensor, held: _Held) -> torch.Tensor:
        conv = self.conv
        whole = functional.conv_transpose1d(hidden, conv.weight, None, self.stride, groups=conv.groups)
        size = hidden.shape[2] * self.stride
        before = functional.pad(held.take(), (0, whole.shape[2] - self.tail))
        whole = whole + before
        held.put(whole[:, :, size:])
        out = whole[:, :, :size]
        return out if conv.bias is None else out + conv.bias[:, None]


class _Elu(nn.Module):
    def dims(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        return iter(())

    def forward(self, hidden: torch.Tensor, held: _Held) -> torch.Tensor:
        return functional.elu(hidden)


class _ResidualStep(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(one) for one in block.block)
        self.shortcut = None if isinstance(block.shortcut, nn.Identity) else _ConvStep(block.shortcut.conv)

    def dims(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for layer in [*self.layers, *([] if self.shortcut is None else [self.shortcut])]:
            yield from layer.dims()

    def forward(self, hidden: torch.Tensor, held: _Held) -> torch.Tensor:
        residual = hidden
        for layer in self.layers:
            hidden = layer(hidden, held)
        if self.shortcut is not None:
            residual = self.shortcut(residual, held)
        return residual + hidden


class _TransformerStep(nn.Module):
    """Attention over the last `sliding_window` positions, of which all but the newest are states."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.config = transformer.config
        self.layers = transformer.layers
        self.past = self.config.sliding_window - 1
        self.register_buffer("frequencies", transformer.rotary_emb.inv_freq.float(), persistent=False)
        self.scaling = transformer.rotary_emb.attention_scaling

    def dims(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        shape = (self.config.num_key_value_heads, self.past, self.config.head_dim)
        yield "position", (1,)
        for _ in self.layers:
            yield "key", shape
            yield "value", shape

    def forward(self, hidden: torch.Tensor, held: _Held) -> torch.Tensor:
        position = held.take()  # [B, 1], how many came before
        count = hidden.shape[1]
        held.put(position + count)
        steps = torch.arange(count, device=hidden.device, dtype=torch.float32)
        angles = (position + steps)[:, :, None] * self.frequencies
        turn = torch.cat([angles, angles], dim=-1)[:, None]
        cos, sin = turn.cos() * self.scaling, turn.sin() * self.scaling
        allowed = self._allowed(position, steps)
        for layer in self.layers:
            hidden = self._layer(layer, hidden, cos, sin, allowed, held)
        return hidden

    def _allowed(self, position: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, 1, queries, keys]: which keys a query may see, of those held and those new."""
        held = torch.arange(-self.past, 0, device=steps.device, dtype=torch.float32)
        keys = torch.cat([held, steps])
        distance = steps[:, None] - keys[None]
        seen = (distance >= 0) & (distance <= self.past)
        exist = position + keys >= 0
        return (seen[None] & exist[:, None])[:, None]

    def _layer(
        self, layer: Any, hidden: torch.Tensor, cos: Any, sin: Any, allowed: torch.Tensor, held: _Held
    ) -> torch.Tensor:
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        query = _turned(_heads(attention.q_proj(normed), attention.head_dim), cos, sin)
        key = _turned(_heads(attention.k_proj(normed), attention.head_dim), cos, sin)
        key = torch.cat([held.take(), key], dim=2)
        value = torch.cat([held.take(), _heads(attention.v_proj(normed), attention.head_dim)], dim=2)
        held.put(key[:, :, key.shape[2] - self.past :])
        held.put(value[:, :, value.shape[2] - self.past :])
        groups = attention.num_key_value_groups
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.matmul(query, key.transpose(2, 3)) * attention.scaling
        scores = torch.where(allowed, scores, torch.full_like(scores, -math.inf))
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        mixed = mixed.transpose(1, 2).flatten(2)
        hidden = hidden + layer.self_attn_layer_scale(attention.o_proj(mixed))
        return hidden + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(hidden)))


def _heads(flat: torch.Tensor, size: int) -> torch.Tensor:
    return flat.unflatten(2, (-1, size)).transpose(1, 2)


def _turned(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, halves side by side."""
    first, second = values.chunk(2, dim=-1)
    return values * cos + torch.cat([-second, first], dim=-1) * sin


def _seanet(decoder: Any) -> list[nn.Module]:
    return [_layer(layer) for layer in decoder.layers]


def _layer(layer: Any) -> nn.Module:
    if hasattr(layer, "block"):
        return _ResidualStep(layer)
    if isinstance(layer, nn.ELU):
        return _Elu()
    if isinstance(layer.conv, nn.ConvTranspose1d):
        return _UpStep(layer.conv)
    return _ConvStep(layer.conv)


def _check(config: Any, codebooks: int) -> None:
    if not config.use_causal_conv or config.trim_right_ratio != 1.0 or config.pad_mode != "constant":
        raise ValueError("this Mimi looks ahead or pads with more than zeros: it cannot be decoded in steps")
    if config.audio_channels != 1:
        raise ValueError(f"this Mimi has {config.audio_channels} audio channels; voices have one")
    if not config.num_semantic_quantizers <= codebooks <= config.num_quantizers:
        raise ValueError(
            f"codebooks is {codebooks}; this Mimi has {config.num_quantizers}, "
            f"of which at least {config.num_semantic_quantizers} are needed"
        )
