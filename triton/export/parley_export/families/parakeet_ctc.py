"""Parakeet CTC (FastConformer, NVIDIA) as one graph: features to log-probabilities, any batch and length.

Options: max_s=SECONDS heard at once, max_batch=N, languages=en,…, license=SPDX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gateway.triton.exported.description import Graph, Tensor
from gateway.triton.models.asr.ctc import collapse
from parley_export import parakeet
from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported, GraphExport
from parley_export.sounds import bursts

SMALL = {"vocab_size": 97, "pad_token_id": 96, "encoder_config": parakeet.SMALL_ENCODER}


class Ctc(nn.Module):
    """forward(features [B, T, mels], lengths [B]) -> (log-probabilities [B, S, vocabulary], frames [B])."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = parakeet.Encoder(model)
        self.head = model.ctc_head

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, frames = self.encoder(features, lengths)
        return torch.log_softmax(self.head(hidden), dim=-1), frames


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    from transformers import ParakeetCTCConfig, ParakeetForCTC

    config = checkpoint.config(ParakeetCTCConfig, SMALL)
    extractor = parakeet.extractor_of(checkpoint, config)
    model = checkpoint.model(ParakeetForCTC, config, enliven=lambda made: enliven(made, extractor))
    max_s = parakeet.number(options, "max_s", parakeet.MAX_S, 1)
    graph = ctc_graph(config, max_s, int(parakeet.number(options, "max_batch", parakeet.MAX_BATCH, 1)))
    tokens = parakeet.tokens_of(checkpoint, config.pad_token_id, config.vocab_size)

    def said(heard: Mapping[str, torch.Tensor]) -> list[int]:
        path = model.generate(**heard)[0].numpy()
        return collapse(path, config.pad_token_id).tokens

    return Exported(
        **parakeet.described(checkpoint, "parakeet_ctc", options),
        engine="parakeet-ctc",
        graphs=[GraphExport(graph, Ctc(model))],
        front=parakeet.front_of(checkpoint, config, extractor, max_s)
        | {"decoder": "ctc", "blank": config.pad_token_id},
        files={"tokens.json": tokens},
        front_reference=parakeet.reference(extractor, tokens, said),
    )


def ctc_graph(config: Any, max_s: float, max_batch: int) -> Graph:
    return Graph(
        name="model",
        inputs=parakeet.encoder_inputs(config.encoder_config.num_mel_bins),
        outputs=(Tensor("LOG_PROBS", "FP32", ("S", config.vocab_size)), Tensor("FRAMES", "INT64", ())),
        axes=(time := parakeet.time_axis(max_s, config),),
        derived=(parakeet.frames_axis(time, config),),
        max_batch=max_batch,
        tolerance=1e-3,
        exact=("FRAMES",),
    )


def enliven(model: Any, extractor: Any) -> None:
    """Random weights of which blank wins BLANKS of the frames."""
    parakeet.liven_encoder(model)
    logits = model(**parakeet.extracted(extractor, bursts(8.0, 1))).logits[0]
    model.ctc_head.bias += parakeet.balance(logits, model.config.pad_token_id)
