"""SNAC's decoder: codes at several rates to audio, with the noise of its noise blocks as an input.

Architecture and names of weights are those of github.com/hubertsiuzdak/snac (MIT; snac/layers.py, snac/vq.py,
read at 3f25bd4), so that a checkpoint's state_dict loads; its config.json's fields are `SnacConfig`'s. Decoder
alone: encoder and the quantizer's input projections are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

DILATIONS = (1, 3, 9)
KERNEL = 7
UNUSED = ("encoder.", "in_proj.")


@dataclass(frozen=True, slots=True)
class SnacConfig:
    """Defaults are those of snac_24khz."""

    sampling_rate: int = 24_000
    encoder_dim: int = 48
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)
    latent_dim: int | None = None
    decoder_dim: int = 1024
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    attn_window_size: int | None = None
    codebook_size: int = 4096
    codebook_dim: int = 8
    vq_strides: tuple[int, ...] = (4, 2, 1)
    noise: bool = True
    depthwise: bool = True

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> SnacConfig:
        """Raises: ValueError for what this decoder does not know."""
        known = {one.name for one in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in told.items()
        }
        config = cls(**{key: value for key, value in values.items() if key in known})
        strides = config.vq_strides
        if config.attn_window_size is not None:
            raise ValueError(
                f"this SNAC attends within windows of {config.attn_window_size} latents (the models for music do): "
                "only decoders without attention are known here, such as snac_24khz"
            )
        if any(strides[0] % stride for stride in strides) or strides[0] < max(strides):
            raise ValueError(f"vq_strides {strides} have no common frame")
        return config

    @property
    def latents(self) -> int:
        """Channels between quantizer and decoder."""
        return self.latent_dim or self.encoder_dim * 2 ** len(self.encoder_rates)

    @property
    def latents_a_frame(self) -> int:
        return self.vq_strides[0]

    @property
    def hop(self) -> int:
        """Samples of a latent."""
        return math.prod(self.decoder_rates)

    @property
    def samples(self) -> int:
        """Of a frame."""
        return self.latents_a_frame * self.hop

    @property
    def codes(self) -> tuple[int, ...]:
        """Codes a frame, of each codebook: 1, 2 and 4."""
        return tuple(self.latents_a_frame // stride for stride in self.vq_strides)

    @property
    def noise_values(self) -> tuple[int, ...]:
        """Values a frame that each noise block takes."""
        if not self.noise:
            return ()
        return tuple(
            self.latents_a_frame * math.prod(self.decoder_rates[: number + 1])
            for number in range(len(self.decoder_rates))
        )


class SnacDecoder(nn.Module):
    """forward(codes [B, sum(config.codes), frames] int64, noise [B, sum(config.noise_values), frames]) ->
    audio [B, frames * config.samples].

    Rows of `codes`: those of the slowest codebook, then the next one's in the order of time, and so on.
    """

    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = _Quantizer(config)
        self.decoder = _Decoder(config)

    def forward(self, codes: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        parts = codes.split(list(self.config.codes), dim=1)
        latents = self.quantizer([_in_time(part) for part in parts])
        values = list(self.config.noise_values)
        noises = [_in_time(one)[:, None] for one in noise.split(values, dim=1)] if noise is not None else []
        return self.decoder(latents, noises)[:, 0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, config.latents, n] -> [B, 1, n * config.hop], without noise: what windows are measured on."""
        return self.decoder(latents, [])


class _Quantizer(nn.Module):
    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(_Codebook(config, stride) for stride in config.vq_strides)

    def forward(self, codes: list[torch.Tensor]) -> torch.Tensor:
        total = self.quantizers[0](codes[0])
        for quantizer, one in zip(list(self.quantizers)[1:], codes[1:], strict=True):
            total = total + quantizer(one)
        return total


class _Codebook(nn.Module):
    def __init__(self, config: SnacConfig, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)
        self.out_proj = _conv(config.codebook_dim, config.latents, 1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        found = self.out_proj(self.codebook(codes).transpose(1, 2))
        if self.stride == 1:
            return found
        return found[..., None].expand(-1, -1, -1, self.stride).flatten(2)


class _Decoder(nn.Module):
    def __init__(self, config: SnacConfig) -> None:
        super().__init__()
        width = config.decoder_dim
        if config.depthwise:
            first = [_conv(config.latents, config.latents, KERNEL, groups=config.latents)]
            first.append(_conv(config.latents, width, 1))
        else:
            first = [_conv(config.latents, width, KERNEL)]
        blocks = []
        for rate in config.decoder_rates:
            blocks.append(_Block(width, width // 2, rate, noise=config.noise, depthwise=config.depthwise))
            width //= 2
        # A plain list under the name that checkpoints have for it.
        self.model = nn.ModuleList([*first, *blocks, _Snake(width), _conv(width, 1, KERNEL)])

    def forward(self, hidden: torch.Tensor, noises: list[torch.Tensor]) -> torch.Tensor:
        left = iter(noises)
        for layer in self.model:
            hidden = layer(hidden, next(left, None)) if isinstance(layer, _Block) else layer(hidden)
        return torch.tanh(hidden)


class _Block(nn.Module):
    def __init__(self, wide: int, narrow: int, rate: int, *, noise: bool, depthwise: bool) -> None:
        super().__init__()
        up = nn.ConvTranspose1d(
            wide, narrow, 2 * rate, stride=rate, padding=math.ceil(rate / 2), output_padding=rate % 2
        )
        layers: list[nn.Module] = [_Snake(wide), weight_norm(up)]
        if noise:
            layers.append(_Noise(narrow))
        groups = narrow if depthwise else 1
        layers += [_Residual(narrow, dilation, groups) for dilation in DILATIONS]
        self.block = nn.ModuleList(layers)

    def forward(self, hidden: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        for layer in self.block:
            hidden = layer(hidden, noise) if isinstance(layer, _Noise) else layer(hidden)
        return hidden


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _Snake(width),
            _conv(width, width, KERNEL, dilation=dilation, groups=groups),
            _Snake(width),
            _conv(width, width, 1),
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.block(hidden)


class _Noise(nn.Module):
    """Adds noise as loud as a projection of the signal says, at each moment."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = _conv(width, width, 1, bias=False)

    def forward(self, hidden: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        return hidden if noise is None else hidden + noise * self.linear(hidden)


class _Snake(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, width, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wave = torch.sin(self.alpha * hidden)
        return hidden + wave * wave / (self.alpha + 1e-9)


def load(folder: Path) -> SnacDecoder:
    """config.json and model.safetensors or pytorch_model.bin of a folder.

    Raises: ValueError, OSError: it holds no decoder that is known here.
    """
    config = SnacConfig.from_dict(json.loads((folder / "config.json").read_text("utf-8")))
    if (folder / "model.safetensors").exists():
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
    else:
        weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    model = SnacDecoder(config)
    found = model.load_state_dict(weights, strict=False)
    strange = [key for key in found.unexpected_keys if not any(part in key for part in UNUSED)]
    if found.missing_keys or strange:
        told = ", ".join([*found.missing_keys, *strange][:3])
        raise ValueError(f"its weights have other names than SNAC's: {told}")
    return model


def plain(model: SnacDecoder) -> SnacDecoder:
    """Weights as they are used: their norms are multiplied in. Changes and returns `model`."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model.eval()


def _in_time(rows: torch.Tensor) -> torch.Tensor:
    """[B, values a frame, frames] -> [B, values]."""
    return rows.transpose(1, 2).flatten(1)


def _conv(
    wide: int, narrow: int, kernel: int, *, dilation: int = 1, groups: int = 1, bias: bool = True
) -> nn.Module:
    padding = (kernel - 1) * dilation // 2
    return weight_norm(
        nn.Conv1d(wide, narrow, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias)
    )
