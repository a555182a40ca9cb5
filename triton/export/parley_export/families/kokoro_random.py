"""A stand-in for Kokoro: a small net with the inputs, the outputs, the noise and the files of its ready-made graphs.

It is not Kokoro's architecture (StyleTTS 2's, which transformers does not have), and stands for it in tests of all
that is around the graph: durations that depend on text, style and speed, a source of sines and noise, one pass.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

SYMBOLS = ';:,.!?—…"()“” AIOQTWYᵊabdfhijklmnpstuvwzæðŋɐɑɒɔəɛɜɡɪɹʃʊʌʒʤʧˈˌːθᵻ'
VOICES = ("af_small", "am_small", "bf_small")
STYLES, WIDTH, STYLE, HOP, RATE = 510, 64, 256, 600, 24_000
HARMONICS = 9
OPSET = 17


class StandIn(nn.Module):
    """forward(input_ids [1, n], style [1, 256], speed [1]) -> waveform [1, samples]"""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(SYMBOLS) + 1, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)
        self.style = nn.Linear(STYLE, WIDTH)
        self.told = nn.Linear(WIDTH, 3)
        self.harmonics = nn.Linear(WIDTH, HARMONICS)
        self.shape = nn.Conv1d(HARMONICS, 1, 25, padding=12)

    def forward(self, input_ids: torch.Tensor, style: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(input_ids) + self.style(style).unsqueeze(1)
        hidden = torch.tanh(self.mix(hidden.transpose(1, 2)).transpose(1, 2))
        told = self.told(hidden)[0]  # [n, 3]: duration, pitch, loudness
        durations = torch.round((3 + 2 * torch.tanh(told[:, 0])) / speed).clamp(min=1)
        ends = torch.cumsum(durations, 0)
        frames = torch.arange(ends[-1].long())
        token = (frames.unsqueeze(1) >= ends.unsqueeze(0)).long().sum(1)
        pitch = 140 + 60 * torch.tanh(told[:, 1])[token]
        loud = torch.sigmoid(3 * told[:, 2])[token]
        amplitudes = torch.softmax(self.harmonics(hidden[0]), -1)[token]
        samples = torch.arange(ends[-1].long() * HOP) // HOP
        phase = torch.cumsum(pitch[samples] / RATE, 0)
        orders = torch.arange(1, HARMONICS + 1).to(torch.float32)
        source = torch.sin(2 * torch.pi * (phase.unsqueeze(1) * orders + torch.rand(1, HARMONICS)))
        source = source + 0.05 * torch.randn_like(source)
        source = source * amplitudes[samples] * loud[samples].unsqueeze(1)
        return torch.tanh(self.shape(source.t().unsqueeze(0)))[0]


def write_random(folder: Path, seed: int) -> None:
    """onnx/model.onnx, config.json and voices/*.bin into `folder`, laid out as the ready-made ones are."""
    torch.manual_seed(seed)
    module = StandIn().eval()
    with torch.no_grad():
        module.told.weight *= 6
        module.shape.weight *= 0.5 / module.shape.weight.abs().sum() * HARMONICS
        module.shape.bias.zero_()
    (folder / "onnx").mkdir()
    (folder / "voices").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.ones(1, 12, dtype=torch.int64), torch.zeros(1, STYLE), torch.ones(1)),
            str(folder / "onnx" / "model.onnx"),
            input_names=["input_ids", "style", "speed"],
            output_names=["waveform"],
            dynamic_axes={"input_ids": {1: "sequence_length"}, "waveform": {1: "num_samples"}},
            opset_version=OPSET,
            dynamo=False,
        )
    vocabulary = {symbol: 1 + index for index, symbol in enumerate(SYMBOLS)}
    (folder / "config.json").write_text(json.dumps({"vocab": vocabulary}), "utf-8")
    rng = np.random.default_rng(seed)
    for voice in VOICES:
        mean = rng.standard_normal((1, 1, STYLE))
        styles = mean + 0.1 * rng.standard_normal((STYLES, 1, STYLE))
        (folder / "voices" / f"{voice}.bin").write_bytes(styles.astype(np.float32).tobytes())
