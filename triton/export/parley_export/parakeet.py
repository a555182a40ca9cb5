"""What Parakeet's CTC, RNN-T and TDT have in common: the encoder, its description, tokenizer and extractor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gateway.triton.exported.description import Axis, Tensor
from gateway.triton.models.pieces import Pieces
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.features import feature_settings
from parley_export.sounds import bursts
from parley_export.tokens import made_vocabulary, tokens_file

RATE = 16_000
MAX_BATCH = 32
MAX_S = 60.0
"""Heard at once when nothing else is asked for: attention grows with its square."""
SMALL_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "subsampling_conv_channels": 16, "num_mel_bins": 80,
}  # fmt: skip
BLANKS = 0.6
"""Of random weights: the share of frames on which blank wins."""
LICENSE = "CC-BY-4.0"
"""Of NVIDIA's Parakeet checkpoints, as their model cards say."""
STRONG = ("q_proj", "k_proj", "o_proj", "linear2", "pointwise_conv2")
"""What decides how much attention, convolution and feed-forward add to what passes by them."""
SECONDS = (3.3, 1.52, 0.31)
"""Of the reference's audio."""


class Encoder(nn.Module):
    """forward(features [B, T, mels], lengths [B]) -> (hidden [B, S, D], frames [B]); what lies behind a row's
    length is ignored."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        # The fused attention leaves a layout behind that the exporter cannot reshape.
        model.set_attn_implementation("eager")
        self.encoder = model.encoder

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.arange(features.shape[1], device=features.device)[None, :] < lengths[:, None]
        made = self.encoder(input_features=features.masked_fill(~mask[:, :, None], 0.0), attention_mask=mask)
        return made.last_hidden_state, made.attention_mask.sum(-1)


def encoder_inputs(mels: int) -> tuple[Tensor, ...]:
    return Tensor("FEATURES", "FP32", ("T", mels)), Tensor("LENGTHS", "INT64", (), "length:T")


def time_axis(max_s: float, config: Any, hop: int = 160) -> Axis:
    """Mel frames: one encoder frame at least."""
    most = int(max_s * RATE / hop)
    return Axis("T", 1, min(most, 60 * config.encoder_config.subsampling_factor), most)


def frames_axis(time: Axis, config: Any) -> Axis:
    """Encoder frames of so many mel frames: each convolution over time halves them, upwards."""
    factor = config.encoder_config.subsampling_factor
    return Axis("S", *(-(-frames // factor) for frames in (time.least, time.usual, time.most)))


def extractor_of(checkpoint: Checkpoint, config: Any) -> Any:
    """Raises: ExportError."""
    from transformers import AutoFeatureExtractor, ParakeetFeatureExtractor

    if checkpoint.folder is None:
        return ParakeetFeatureExtractor(feature_size=config.encoder_config.num_mel_bins)
    try:
        return AutoFeatureExtractor.from_pretrained(checkpoint.folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"{checkpoint.source} has no feature extractor: {error}") from None


def tokens_of(checkpoint: Checkpoint, blank: int, size: int) -> bytes:
    """tokens.json. Raises: ExportError."""
    if checkpoint.folder is None:
        return tokens_file(made_vocabulary(size), special=[blank], size=size)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"{checkpoint.source} has no tokenizer: {error}") from None
    return tokens_file(tokenizer, special=[blank], size=size)


def front_of(checkpoint: Checkpoint, config: Any, extractor: Any, max_s: float) -> dict[str, Any]:
    """front.json's part that all have."""
    factor = config.encoder_config.subsampling_factor
    return {
        "kind": "buffered",
        "features": feature_settings(extractor),
        "encoder_frame_ms": 1000 * factor * extractor.hop_length / extractor.sampling_rate,
        "max_s": max_s,
        # Of random weights every word changes with every sample: no two decodes agree for good.
        **({"agreement": 0} if checkpoint.is_random else {}),
    }


def described(checkpoint: Checkpoint, family: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Name, languages and licence, for Exported(...)."""
    license_file = checkpoint.folder / "LICENSE" if checkpoint.folder is not None else None
    return {
        "name": f"{family}_{checkpoint.label}".replace("-", "_").replace(".", "_").lower(),
        "kind": "asr",
        "parameters": {"languages": options.get("languages", "en"), "sample_rate": str(RATE)},
        "license": options.get("license") or checkpoint.licensed(LICENSE, "nvidia"),
        "license_text": license_file.read_text("utf-8") if license_file and license_file.exists() else "",
    }


def extracted(extractor: Any, audio: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """input_features and attention_mask of transformers' own extractor, the frame behind the last one left out:
    it is masked, and its zeros are what the convolutions see there anyway."""
    made = extractor([audio], sampling_rate=RATE, return_tensors="pt")
    frames = int(made["attention_mask"].sum())
    return {
        "input_features": made["input_features"][:, :frames],
        "attention_mask": made["attention_mask"][:, :frames].bool(),
    }


def reference(extractor: Any, tokens_json: bytes, tokens_of_audio: Any) -> dict[str, NDArray[np.generic]]:
    """What transformers says to audio made from a seed. tokens_of_audio: an audio's features -> tokens."""
    pieces = Pieces(json.loads(tokens_json))
    told: dict[str, NDArray[np.generic]] = {}
    for number, seconds in enumerate(SECONDS):
        audio = bursts(seconds, 7 + number)
        tokens = tokens_of_audio(extracted(extractor, audio))
        told[f"audio_{number}"] = audio
        told[f"tokens_{number}"] = np.array(tokens, np.int64)
        told[f"text_{number}"] = np.array(pieces.text(tokens))
    return told


def liven_encoder(model: Any) -> None:
    """Random weights that hear something: every part of every layer counts, none of the norms is neutral."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "bias" not in name:
            strong = any(part in name for part in STRONG)
            weight.normal_(0, (3.0 if strong else 1.0) * weight[0].numel() ** -0.5)
        elif "norm" in name:
            weight.normal_(float(name.endswith("weight")), 0.3)


def balance(logits: torch.Tensor, blank: int, blanks: float = BLANKS) -> torch.Tensor:
    """What to add to the last layer's bias so that no token is likelier than others, and blank wins this share of
    the frames. logits [frames, vocabulary]."""
    added = -logits.mean(0)
    others = logits + added
    others[:, blank] = -torch.inf
    gap = others.amax(-1) - (logits + added)[:, blank]
    added[blank] += torch.quantile(gap, blanks)
    return added


def number(options: Mapping[str, str], key: str, default: float, least: float) -> float:
    """Raises: ExportError."""
    try:
        value = float(options.get(key, default))
    except ValueError:
        value = least - 1
    if not value >= least:
        raise ExportError(f"option {key}={options[key]} must be a number of at least {least:g}")
    return value
