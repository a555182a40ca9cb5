"""VITS in three graphs: text to durations and prior, prior to latents, latents to audio.

Weights are transformers' VitsModel's; the forward passes are Parley's own where the original does not suit a
graph. No noise is drawn in them, no length depends on data, and nothing is left that TensorRT refuses or runs
slowly: the spline selects its bins by comparison and multiplication (the original indexes by masks: NonZero,
GatherND and ScatterND, whose shapes depend on data) and sums widths by a matrix (no CumSum), the relative
attention shifts rows by padding and reshaping, and the channel flips between couplings are folded into weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as f

LEAST_BIN = LEAST_SLOPE = 1e-3
"""Smallest width and height of a bin and smallest derivative of the duration spline (modeling_vits.py)."""


def without_weight_norm(model: Any) -> Any:
    """Each convolution with the weight that its norm and direction make."""
    for module in model.modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model


class Text(nn.Module):
    """(ids [B, T], length [B], noise [B, 2, T] unless durations are plain, speaker [B, S] with several)
    -> log of the durations in frames [B, T], prior's mean and log deviation [B, C, T]; zeros beyond the length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.config = model.text_encoder, model.config
        self.attentions = nn.ModuleList(
            _Attention(layer.attention) for layer in model.text_encoder.encoder.layers
        )
        stochastic = model.config.use_stochastic_duration_prediction
        self.stochastic = _StochasticDurations(model.duration_predictor) if stochastic else None
        self.plain: Any = None if stochastic else model.duration_predictor

    def forward(self, ids: Any, length: Any, third: Any = None, fourth: Any = None) -> tuple[Any, Any, Any]:
        noise, speaker = (third, fourth) if self.stochastic is not None else (None, third)
        if speaker is not None:
            speaker = speaker.unsqueeze(-1)
        mask = _mask(ids.shape[1], length)  # [B, 1, T]
        column = mask.transpose(1, 2)
        hidden = self.encoder.embed_tokens(ids) * math.sqrt(self.config.hidden_size) * column
        for layer, attention in zip(self.encoder.encoder.layers, self.attentions, strict=True):
            hidden = layer.layer_norm(hidden + attention(hidden, mask))
            hidden = layer.final_layer_norm(hidden + layer.feed_forward(hidden, column))
        hidden = (hidden * column).transpose(1, 2)
        stats = self.encoder.project(hidden) * mask
        mean, log_deviation = stats.chunk(2, 1)
        if self.stochastic is not None:
            durations = self.stochastic(hidden, mask, noise, speaker)
        else:
            durations = self.plain(hidden, mask, speaker)
        return durations.squeeze(1), mean, log_deviation


class Flow(nn.Module):
    """(prior [B, C, F], length [B], speaker [B, S] with several) -> latents [B, C, F]; zeros beyond the length.

    The original turns the channels round before each coupling. Here the odd couplings read the second half
    and change the first one, with their outer convolutions' channels turned round instead.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        flows = list(reversed(model.flow.flows))
        self.couplings = nn.ModuleList(_Coupling(flow, turned=n % 2 == 0) for n, flow in enumerate(flows))
        self.half = model.config.flow_size // 2

    def forward(self, prior: Any, length: Any, speaker: Any = None) -> Any:
        speaker = None if speaker is None else speaker.unsqueeze(-1)
        mask = _mask(prior.shape[2], length)
        first, second = prior[:, : self.half] * mask, prior[:, self.half :] * mask
        for coupling in self.couplings:
            if coupling.turned:
                first = first - coupling(second, mask, speaker)
            else:
                second = second - coupling(first, mask, speaker)
        latents = torch.cat([first, second], 1)
        return latents.flip(1) if len(self.couplings) % 2 else latents


class Decoder(nn.Module):
    """(latents [B, C, F], speaker [B, S] with several) -> samples [B, F · hop], full scale 1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, latents: Any, speaker: Any = None) -> Any:
        speaker = None if speaker is None else speaker.unsqueeze(-1)
        return self.decoder(latents, speaker).squeeze(1)


def _mask(size: int, length: Any) -> Any:
    """[B, 1, size]: 1 up to each row's length [B], then 0."""
    return (torch.arange(size, device=length.device) < length.unsqueeze(1)).to(torch.float32).unsqueeze(1)


class _Attention(nn.Module):
    """With relative positions: those up to `window` away have keys and values of their own."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.trained, self.heads, self.window = trained, trained.num_heads, trained.window_size or 0

    def forward(self, hidden: Any, mask: Any) -> Any:
        """hidden [B, T, D], mask [B, 1, T]."""
        batch, size, width = hidden.shape
        head = width // self.heads
        t = self.trained

        def split(x: Any) -> Any:
            return x.reshape(batch, size, self.heads, head).transpose(1, 2)

        query = split(t.q_proj(hidden)) * t.scaling
        key, value = split(t.k_proj(hidden)), split(t.v_proj(hidden))
        logits = query @ key.transpose(-1, -2)
        if self.window:
            logits = logits + self._to_absolute(query @ t.emb_rel_k.transpose(-1, -2), size)
        logits = logits + (1.0 - mask.unsqueeze(1)) * torch.finfo(torch.float32).min
        weights = f.softmax(logits, -1)
        heard = weights @ value
        if self.window:
            heard = heard + self._to_relative(weights, size) @ t.emb_rel_v
        return t.out_proj(heard.transpose(1, 2).reshape(batch, size, width))

    def _to_absolute(self, relative: Any, size: int) -> Any:
        """[…, T, 2w+1] by distance -> […, T, T] by position: each row is shifted one further than the last."""
        w = self.window
        wide = f.pad(relative, (0, size)).flatten(-2)
        shifted = wide[..., : size * (size + 2 * w)].unflatten(-1, (size, size + 2 * w))
        return shifted[..., w : w + size]

    def _to_relative(self, absolute: Any, size: int) -> Any:
        """[…, T, T] by position -> […, T, 2w+1] by distance."""
        w = self.window
        wide = f.pad(f.pad(absolute, (w, w)).flatten(-2), (0, size))
        return wide.unflatten(-1, (size, size + 2 * w + 1))[..., : 2 * w + 1]


class _StochasticDurations(nn.Module):
    """From noise to log durations; only the half of the trained module that synthesis needs."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.conv_pre, self.conv_dds, self.conv_proj = trained.conv_pre, trained.conv_dds, trained.conv_proj
        self.cond: Any = getattr(trained, "cond", None)
        flows = list(trained.flows)
        self.affine = flows[0]
        self.flows = nn.ModuleList(_Spline(flow) for flow in reversed(flows[2:]))  # the first one is not used

    def forward(self, hidden: Any, mask: Any, noise: Any, speaker: Any) -> Any:
        hidden = self.conv_pre(hidden)
        if speaker is not None:
            hidden = hidden + self.cond(speaker)
        hidden = self.conv_proj(self.conv_dds(hidden, mask)) * mask
        first, second = noise[:, :1], noise[:, 1:]
        for flow in self.flows:
            first, second = second, first
            second = flow(first, second, mask, hidden) * mask
            first = first * mask
        log_durations = second  # turned round once more
        shift, log_scale = self.affine.translate[:1], self.affine.log_scale[:1]
        return (log_durations - shift) * torch.exp(-log_scale) * mask


class _Spline(nn.Module):
    """One coupling of the durations, backwards: a monotonic rational-quadratic spline (Durkan et al. 2019)."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.conv_pre, self.conv_dds, self.conv_proj = trained.conv_pre, trained.conv_dds, trained.conv_proj
        self.bins, self.bound = trained.num_bins, float(trained.tail_bound)
        self.scale = 1 / math.sqrt(trained.filter_channels)
        self.register_buffer("sums", torch.triu(torch.ones(self.bins, self.bins)), persistent=False)

    def forward(self, first: Any, second: Any, mask: Any, condition: Any) -> Any:
        told = self.conv_proj(self.conv_dds(self.conv_pre(first), mask, condition)) * mask
        told = told.transpose(1, 2)  # [B, T, 3 · bins - 1]
        y, bins = second.transpose(1, 2), self.bins
        widths, heights = told[..., :bins] * self.scale, told[..., bins : 2 * bins] * self.scale
        return self.backwards(y, widths, heights, told[..., 2 * bins :]).transpose(1, 2)

    def backwards(self, y: Any, widths: Any, heights: Any, slopes: Any) -> Any:
        """y [B, T, 1]; widths and heights [B, T, bins] and inner slopes [B, T, bins - 1] as the net says them."""
        x_knots, y_knots = self._knots(widths), self._knots(heights)
        knot_slopes = f.pad(LEAST_SLOPE + f.softplus(slopes), (1, 1), value=1.0)
        inside = (y >= -self.bound) & (y <= self.bound)
        x = _inverse(y.clamp(-self.bound, self.bound), x_knots, y_knots, knot_slopes)
        return torch.where(inside, x, y)

    def _knots(self, shares: Any) -> Any:
        """[..., bins] -> [..., bins + 1], from -bound to bound."""
        sizes = LEAST_BIN + (1 - LEAST_BIN * self.bins) * f.softmax(shares, -1)
        ends = 2 * self.bound * (sizes @ self.sums)[..., :-1] - self.bound
        return f.pad(f.pad(ends, (1, 0), value=-self.bound), (0, 1), value=self.bound)


def _inverse(y: Any, x_knots: Any, y_knots: Any, slopes: Any) -> Any:
    """y [B, T, 1] within the bounds; knots and slopes [B, T, bins + 1]."""
    reached = (y >= y_knots[..., :-1]).to(y.dtype)
    chosen = reached - f.pad(reached[..., 1:], (0, 1))  # 1 in y's own bin, else 0

    def of_bin(values: Any) -> Any:
        return (values * chosen).sum(-1, keepdim=True)

    widths, heights = x_knots[..., 1:] - x_knots[..., :-1], y_knots[..., 1:] - y_knots[..., :-1]
    x_left, y_left, width, height = (
        of_bin(x_knots[..., :-1]),
        of_bin(y_knots[..., :-1]),
        of_bin(widths),
        of_bin(heights),
    )
    left, right = of_bin(slopes[..., :-1]), of_bin(slopes[..., 1:])
    steepness = of_bin(heights / widths)
    bend = left + right - 2 * steepness
    above = y - y_left
    a = height * (steepness - left) + above * bend
    b = height * left - above * bend
    c = -steepness * above
    root = 2 * c / (-b - torch.sqrt((b * b - 4 * a * c).clamp_min(0)))
    return root * width + x_left


class _Coupling(nn.Module):
    """What is taken off one half of the channels, from the other half."""

    def __init__(self, trained: Any, *, turned: bool) -> None:
        """turned: it works on channels in reverse order."""
        super().__init__()
        self.turned = turned
        self.pre, self.post = _copy(trained.conv_pre), _copy(trained.conv_post)
        if turned:
            self.pre.weight.data = self.pre.weight.data.flip(1)
            self.post.weight.data, self.post.bias.data = (
                self.post.weight.data.flip(0),
                self.post.bias.data.flip(0),
            )
        net = trained.wavenet
        self.layers, self.skips = net.in_layers, net.res_skip_layers
        self.cond: Any = getattr(net, "cond_layer", None)
        self.width = net.hidden_size

    def forward(self, half: Any, mask: Any, speaker: Any) -> Any:
        hidden = self.pre(half) * mask
        told = None if speaker is None else self.cond(speaker).chunk(len(self.layers), 1)
        out = 0.0
        for n, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
            both = layer(hidden) if told is None else layer(hidden) + told[n]
            acts = torch.tanh(both[:, : self.width]) * torch.sigmoid(both[:, self.width :])
            made = skip(acts)
            if n + 1 < len(self.layers):
                hidden = (hidden + made[:, : self.width]) * mask
                made = made[:, self.width :]
            out = out + made
        return self.post(out * mask) * mask


def _copy(conv: Any) -> Any:
    same = nn.Conv1d(conv.in_channels, conv.out_channels, 1)
    same.load_state_dict(conv.state_dict())
    return same
