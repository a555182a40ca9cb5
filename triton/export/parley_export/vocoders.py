"""HiFi-GAN as transformers has it (SpeechT5HifiGan, FastSpeech2ConformerHifiGan): its graph and its windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gateway.triton.exported.description import Axis, Graph, Tensor
from parley_export.checkpoint import ExportError
from parley_export.exported import GraphExport
from parley_export.receptive_field import receptive_field

FIRST_S = 0.1
"""New audio of the first window: a front's first chunk is 40 ms and waits for 40 ms more."""
LATER_S = 1.0
GRAIN = 8
"""Frames: few window lengths, so that runtimes which prepare for each shape meet few."""
MAX_BATCH = 16
TOLERANCE = 2e-4
"""Of audio, full scale 1: -74 dBFS."""
LOUD_RMS = 0.1
"""-20 dBFS: what a voice's gain brings voiced speech to."""
QUIET = 0.01
"""Of full scale: 20 ms quieter than this are no voice."""

SMALL_HIFIGAN = {
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
}


class Vocoder(nn.Module):
    """Frames [B, bins, T] -> audio [B, T * hop]; `before` (a postnet) sees the frames first, [B, T, bins] -> the same."""

    def __init__(self, hifigan: nn.Module, before: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.hifigan, self.before = hifigan, before

    def forward(self, mel: Any) -> Any:
        frames = mel.transpose(1, 2)
        if self.before is not None:
            frames = self.before(frames)
        return self.hifigan(frames)


def hop_of(config: Any) -> int:
    """Samples a frame. Raises: ExportError where the vocoder makes no whole number of them."""
    for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        if (kernel - rate) % 2:
            raise ExportError(
                f"a vocoder that upsamples by {rate} with a kernel of {kernel} cannot be windowed"
            )
    return math.prod(config.upsample_rates)


def windows_of(vocoder: Vocoder, bins: int, hop: int, rate: int) -> dict[str, int]:
    """Settings of gateway.triton.models.tts.windows.Windowing."""
    left, right = receptive_field(vocoder, (bins,), hop)
    return {
        "hop": hop, "left": left, "right": right, "grain": GRAIN,
        "first": math.ceil(FIRST_S * rate / hop), "later": math.ceil(LATER_S * rate / hop),
    }  # fmt: skip


def vocoder_export(vocoder: Vocoder, bins: int, windows: dict[str, int]) -> GraphExport:
    most = 2 * (windows["left"] + windows["later"] + windows["right"])
    graph = Graph(
        "vocoder",
        inputs=(Tensor("mel", "FP32", (bins, "frames")),),
        outputs=(Tensor("audio", "FP32", ("samples",)),),
        axes=(Axis("frames", 1, windows["first"] + windows["right"], most),),
        max_batch=MAX_BATCH,
        tolerance=TOLERANCE,
    )
    return GraphExport(graph, vocoder)


def enliven_hifigan(hifigan: Any) -> None:
    """Random weights that sound: transformers' own start (0.01) dies away layer by layer."""
    for module in hifigan.modules():
        if isinstance(module, nn.ConvTranspose1d):
            inputs = module.in_channels * module.kernel_size[0] / module.stride[0]
            nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
        elif isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=math.sqrt(1 / (module.in_channels * module.kernel_size[0])))
    mel = hifigan.mean + hifigan.scale * torch.randn(1, 64, len(hifigan.mean))
    loudness = torch.atanh(hifigan(mel).clamp(-0.9999, 0.9999)).std()
    hifigan.conv_post.weight.mul_(LOUD_RMS / loudness)


def gain_of(audio: NDArray[np.float32], rate: int) -> float:
    """What brings the voiced parts to -20 dBFS RMS. Raises: ExportError for silence."""
    size = rate // 50
    pieces = audio[: len(audio) // size * size].reshape(-1, size).astype(np.float64)
    rms = np.sqrt(np.mean(np.square(pieces), axis=1))
    voiced = rms[rms > QUIET]
    if not len(voiced):
        raise ExportError("this voice is silent: its reference utterance is nowhere louder than -40 dBFS")
    return round(float(LOUD_RMS / np.sqrt(np.mean(np.square(voiced)))), 3)
