"""A voice of random weights in the form of Piper's: one graph that draws its noise itself, and its .onnx.json.

Inputs, outputs and settings as Piper's exporter writes them: input [B, T], input_lengths [B], scales [3] (noise,
length, noise of the durations), sid [B] with several speakers -> output [B, 1, 1, samples]; opset 15.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import VitsConfig, VitsModel

from parley_export.checkpoint import Checkpoint
from parley_export.families import vits, vits_graphs

OPSET = 15
SOUNDS = " abdefhijklmnoprstuvwzæðŋɐɑɔəɚɛɜɡɪɹɾʃʊʌʒˈˌːθɒɫᵻɔɝʔ.,?!;:'-"
"""Enough of espeak's English, with its marks."""


class Whole(nn.Module):
    """The graphs of a VITS with all that lies between them, and its noise."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.flow = vits_graphs.Text(model), vits_graphs.Flow(model)
        self.decoder = vits_graphs.Decoder(model)
        self.speakers = model.embed_speaker if model.config.num_speakers > 1 else None

    def forward(self, ids: Any, lengths: Any, scales: Any, sid: Any = None) -> Any:
        speaker = [] if self.speakers is None else [self.speakers(sid)]
        noise = torch.randn_like(ids.unsqueeze(1).expand(-1, 2, -1).to(torch.float32)) * scales[2]
        log_durations, mean, log_deviation = self.text(ids, lengths, noise, *speaker)
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).to(torch.float32)
        ends = torch.cumsum(torch.ceil(torch.exp(log_durations) * mask * scales[1]), 1)
        frames = ends[:, -1].clamp_min(1).to(torch.int64)
        places = torch.arange(frames.max()).unsqueeze(0)  # [1, F]
        reached = (places.unsqueeze(-1) >= ends.unsqueeze(1)).to(
            torch.float32
        )  # [B, F, T]: that token is over
        own = torch.cat([torch.ones_like(reached[..., :1]), reached[..., :-1]], -1) - reached
        mean, log_deviation = mean @ own.transpose(1, 2), log_deviation @ own.transpose(1, 2)
        prior = mean + torch.randn_like(mean) * torch.exp(log_deviation) * scales[0]
        latents = self.flow(prior, frames, *speaker)
        return self.decoder(latents, *speaker).unsqueeze(1).unsqueeze(1)


def write_random(checkpoint: Checkpoint, folder: Path, speakers: int) -> None:
    """voice.onnx and voice.onnx.json into `folder`."""
    small = {
        **vits.SMALL, "vocab_size": 3 + len(SOUNDS), "num_speakers": speakers,
        "speaker_embedding_size": 16 if speakers > 1 else 0,
    }  # fmt: skip
    model = checkpoint.model(VitsModel, checkpoint.config(VitsConfig, small), enliven=vits.enliven)
    vits_graphs.without_weight_norm(model)
    ids = torch.randint(1, len(SOUNDS), (2, 13))
    example = [ids, torch.tensor([13, 9]), torch.tensor([0.667, 1.0, 0.8])]
    names = ["input", "input_lengths", "scales"]
    if speakers > 1:
        example.append(torch.tensor([0, 1]))
        names.append("sid")
    dynamic = {
        "input": {0: "batch", 1: "phonemes"},
        "input_lengths": {0: "batch"},
        "output": {0: "batch", 3: "time"},
    }
    if speakers > 1:
        dynamic["sid"] = {0: "batch"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Whole(model).eval(), tuple(example), str(folder / "voice.onnx"), dynamo=False, opset_version=OPSET,
            input_names=names, output_names=["output"], dynamic_axes=dynamic,
        )  # fmt: skip
    config = model.config
    symbols = {"_": [0], "^": [1], "$": [2]} | {sound: [3 + n] for n, sound in enumerate(SOUNDS)}
    told = {
        "audio": {"sample_rate": config.sampling_rate, "quality": "random"},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "inference": {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8},
        "phoneme_type": "espeak",
        "phoneme_id_map": symbols,
        "num_symbols": config.vocab_size,
        "num_speakers": max(speakers, 1),
        "speaker_id_map": {f"person{n}": n for n in range(speakers)} if speakers > 1 else {},
    }
    (folder / "voice.onnx.json").write_text(json.dumps(told, ensure_ascii=False), "utf-8")
