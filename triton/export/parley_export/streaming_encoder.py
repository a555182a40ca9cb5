"""The cache-aware streaming FastConformer with every cache an explicit tensor, around transformers' own weights.

transformers keeps its caches in Python objects that grow from chunk to chunk and treats the first chunk apart
(NemotronAsrStreamingEncoder, transformers 5.23). Here shapes never change and a first chunk may stand beside
later ones in a batch:

* A first chunk has 1 + factor x lookahead mel frames, a later one factor x (lookahead + 1). The first one is
  put at the end of a later one's place; the factor - 1 frames before it, and what the subsampling makes of
  them, are held at zero, which is the extra padding of the first chunk.
* Keys and values have room for the whole left context from the start; those not yet heard are masked.
* Relative positions depend on the distance alone, so their projections are constants of the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MASKED = -3e4
"""Far below any score and still finite in half precision."""


class StreamingEncoder(nn.Module):
    """`encoder`: a NemotronAsrStreamingEncoder. One graph has one look-ahead, in encoder frames."""

    def __init__(self, encoder: Any, lookahead: int) -> None:
        super().__init__()
        config = encoder.config
        self.factor = int(config.subsampling_factor)
        self.frames = lookahead + 1
        """Encoder frames of a chunk."""
        self.window = (int(config.sliding_window) - 1) // self.frames * self.frames
        """Left context in encoder frames: whole chunks of what the model was trained with."""
        self.mels = int(config.num_mel_bins)
        self.heads = int(config.num_attention_heads)
        self.width = int(config.hidden_size)
        self.scale = float(encoder.input_scale)
        self.convs = nn.ModuleList(
            [encoder.subsampling.conv_in, *(layer.depthwise_conv for layer in encoder.subsampling.layers)]
        )
        self.pointwise = nn.ModuleList(
            [nn.Identity(), *(layer.pointwise_conv for layer in encoder.subsampling.layers)]
        )
        self.project = encoder.subsampling.linear
        self.layers = encoder.layers
        self.kernel = int(encoder.layers[0].conv.depthwise_conv.left_pad)
        self._tabulate(encoder)

    @property
    def mel_frames(self) -> int:
        return self.factor * self.frames

    def state_dims(self) -> dict[str, tuple[int, ...]]:
        """Name -> dimensions of each cache, in the order of `forward`."""
        layers, head = len(self.layers), self.width // self.heads
        dims: dict[str, tuple[int, ...]] = {
            "keys": (layers, self.heads, self.window, head),
            "values": (layers, self.heads, self.window, head),
            "convs": (layers, self.width, self.kernel),
            "heard": (1,),
        }
        bins = self.mels
        for number, conv in enumerate(self.convs):
            dims[f"stage{number}"] = (conv.in_channels, conv.left_pad, bins)
            bins = (bins + sum(conv.freq_pad) - conv.kernel_size[1]) // conv.stride[1] + 1
        return dims

    def forward(
        self, features: Tensor, length: Tensor, fresh: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """features [B, mel_frames, mels]; length [B, 1]: how many of them, from the first, are valid (a first
        chunk's leading zeros count); fresh [B, 1] bool -> hidden [B, frames, width], valid encoder frames
        [B, 1], new states."""
        keys, values, convs, heard, *stages = (
            torch.where(fresh.view(-1, *[1] * (s.dim() - 1)), torch.zeros((), dtype=s.dtype), s)
            for s in states
        )
        hidden, valid, stages = self._subsample(features, length, fresh, stages)
        at = torch.arange(self.window + self.frames)
        known = (at[None] >= self.window - heard) & (at[None] < self.window + valid)
        new_keys, new_values, new_convs = [], [], []
        for number, layer in enumerate(self.layers):
            hidden = hidden + 0.5 * layer.feed_forward1(layer.norm_feed_forward1(hidden))
            told, key, value = self._attend(
                layer.self_attn,
                layer.norm_self_att(hidden),
                keys[:, number],
                values[:, number],
                known,
                getattr(self, f"relative_{number}"),
            )
            hidden = hidden + told
            told, conv = _convolve(layer.conv, layer.norm_conv(hidden), convs[:, number])
            hidden = hidden + told
            hidden = hidden + 0.5 * layer.feed_forward2(layer.norm_feed_forward2(hidden))
            hidden = layer.norm_out(hidden)
            new_keys.append(key)
            new_values.append(value)
            new_convs.append(conv)
        keys = torch.cat([keys, torch.stack(new_keys, 1)], 3)[:, :, :, -self.window :]
        values = torch.cat([values, torch.stack(new_values, 1)], 3)[:, :, :, -self.window :]
        heard = torch.clamp(heard + self.frames, max=float(self.window))
        return hidden, valid, [keys, values, torch.stack(new_convs, 1), heard, *stages]

    def _subsample(
        self, features: Tensor, length: Tensor, fresh: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        hidden = features.unsqueeze(1)
        lead = self.factor - 1
        hidden = self._within(hidden, lead, length, fresh)
        kept = []
        for conv, pointwise, cache in zip(self.convs, self.pointwise, caches, strict=True):
            stride = conv.stride[0]
            whole = torch.cat([cache, hidden], 2)
            kept.append(whole[:, :, -conv.left_pad :])
            padded = nn.functional.pad(whole, conv.freq_pad)
            hidden = nn.functional.conv2d(
                padded, conv.weight, conv.bias, stride=conv.stride, groups=conv.groups
            )
            lead = (lead - stride + 1) // stride
            length = (length + stride - 1) // stride
            hidden = nn.functional.relu(pointwise(hidden))
            hidden = self._within(hidden, lead, length, fresh)
        hidden = self.project(hidden.transpose(1, 2).flatten(2))
        return hidden * self.scale, length, kept

    @staticmethod
    def _within(hidden: Tensor, lead: int, length: Tensor, fresh: Tensor) -> Tensor:
        """Zero outside of what was heard: before a first chunk's beginning and after the end."""
        at = torch.arange(hidden.shape[2])[None]
        inside = at < length
        if lead:
            inside = inside & ((at >= lead) | ~fresh)
        return torch.where(inside[:, None, :, None], hidden, torch.zeros((), dtype=hidden.dtype))

    def _attend(
        self, module: Any, hidden: Tensor, keys: Tensor, values: Tensor, known: Tensor, relative: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, count = hidden.shape[0], self.frames

        def split(projected: Tensor) -> Tensor:
            return projected.view(rows, count, self.heads, -1).transpose(1, 2)

        query = split(module.q_proj(hidden))
        key, value = split(module.k_proj(hidden)), split(module.v_proj(hidden))
        content = (query + module.bias_u[:, None]) @ torch.cat([keys, key], 2).transpose(2, 3)
        position = self._shift((query + module.bias_v[:, None]) @ relative)
        scores = (content + position) * module.scaling
        weights = torch.softmax(torch.where(known[:, None, None], scores, MASKED), -1)
        told = weights @ torch.cat([values, value], 2)
        return module.o_proj(told.transpose(1, 2).reshape(rows, count, self.width)), key, value

    def _shift(self, scores: Tensor) -> Tensor:
        """[B, H, T, W + 2T - 1], by falling distance -> [B, H, T, W + T], by key: row t begins T - 1 - t later."""
        rows, count, distances = scores.shape[0], self.frames, scores.shape[3]
        if count == 1:
            return scores
        skewed = nn.functional.pad(scores, (1, 0)).reshape(rows, self.heads, distances + 1, count)
        skewed = skewed[:, :, 1:].reshape(rows, self.heads, count, distances)
        return skewed[..., : self.window + count]

    def _tabulate(self, encoder: Any) -> None:
        """Per layer [heads, head width, W + 2T - 1]: the projected encoding of every distance that occurs."""
        whole = self.window + self.frames
        with torch.no_grad():
            # The encoding runs over all distances of the key length, of which the most negative do not occur.
            table = encoder.encode_positions(torch.zeros(1, whole, 1))[0, : whole + self.frames - 1]
            for number, layer in enumerate(encoder.layers):
                projected = layer.self_attn.relative_k_proj(table)
                split = projected.view(len(table), self.heads, -1).permute(1, 2, 0)
                self.register_buffer(f"relative_{number}", split.contiguous(), persistent=False)


def _convolve(module: Any, hidden: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
    hidden = nn.functional.glu(module.pointwise_conv1(hidden.transpose(1, 2)), dim=1)
    whole = torch.cat([cache, hidden], 2)
    conv = module.depthwise_conv
    hidden = nn.functional.conv1d(whole, conv.weight, conv.bias, groups=conv.groups)
    hidden = module.activation(module.norm(hidden.transpose(1, 2)).transpose(1, 2))
    return module.pointwise_conv2(hidden).transpose(1, 2), whole[:, :, -cache.shape[2] :]
