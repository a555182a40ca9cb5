"""Parakeet RNN-T and TDT (FastConformer, NVIDIA): an encoder graph, and decoder and joint network in a second one.

Options: max_s=SECONDS heard at once, max_batch=N, window=FRAMES the joint network looks at in one step,
languages=en,…, license=SPDX; of random:small also tdt=true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gateway.triton.exported.description import Axis, Graph, State, Tensor
from parley_export import parakeet
from parley_export.checkpoint import RANDOM, Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.greedy_rnnt import GreedyRnnt
from parley_export.sounds import bursts

WINDOW = 4
"""Frames of one step: more of them waste the joint network's work behind a token, fewer ask more often."""
MOST_WINDOW = 64
TDT = "parakeet_tdt"
SMALL = {
    "vocab_size": 97, "blank_token_id": 96, "pad_token_id": 2, "decoder_hidden_size": 48,
    "num_decoder_layers": 2, "max_symbols_per_step": 5, "encoder_config": parakeet.SMALL_ENCODER,
}  # fmt: skip


class Projected(nn.Module):
    """forward(features [B, T, mels], lengths [B]) -> (encoded [B, S, D], frames [B])."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = parakeet.Encoder(model)
        self.projector = model.encoder_projector

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, frames = self.encoder(features, lengths)
        return self.projector(hidden), frames


class Decoder(nn.Module):
    """forward(encoded [B, W, D], token [B], start [B, 1], predicted [B, D], hidden, cell [B, layers, D]) ->
    (tokens [B, W], durations [B, W] as indices of a TDT, logits [B, W, vocabulary + durations], predicted, hidden,
    cell).

    Every frame of the window is joined with what the decoder predicts behind `token`; where that is blank the
    states stay as they are. START lets the decoder hear blank once from zeros on, as transformers does.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.greedy = GreedyRnnt(model, frames=1, steps=1)
        self.joint = model.joint
        self.vocabulary = int(model.config.vocab_size)
        self.timed = model.config.model_type == TDT

    def forward(
        self,
        encoded: torch.Tensor,
        token: torch.Tensor,
        start: torch.Tensor,
        predicted: torch.Tensor,
        hidden: torch.Tensor,
        cell: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        fresh, said = start > 0.5, (token != self.greedy.blank)[:, None]
        after = self.greedy._predict(token, hidden, cell)
        firsts = (self.greedy.first_told, self.greedy.first_hidden, self.greedy.first_cell)
        now = []
        for value, new, first in zip((predicted, hidden, cell), after, firsts, strict=True):
            rank = value.dim()
            mask = said if rank == 2 else said[..., None]
            begun = fresh if rank == 2 else fresh[..., None]
            now.append(torch.where(begun, first, torch.where(mask, new, value)))
        logits = self.joint(decoder_hidden_states=now[0][:, None], encoder_hidden_states=encoded)
        tokens = logits[..., : self.vocabulary].argmax(-1)
        timed = (logits[..., self.vocabulary :].argmax(-1),) if self.timed else ()
        return tokens, *timed, logits, *now


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    model, config, extractor = _model(checkpoint, options)
    max_s = parakeet.number(options, "max_s", parakeet.MAX_S, 1)
    max_batch = int(parakeet.number(options, "max_batch", parakeet.MAX_BATCH, 1))
    window = int(parakeet.number(options, "window", WINDOW, 1))
    if window > MOST_WINDOW:
        raise ExportError(f"option window={window} must be at most {MOST_WINDOW}")
    tokens = parakeet.tokens_of(checkpoint, config.blank_token_id, config.vocab_size)

    def said(heard: Mapping[str, torch.Tensor]) -> list[int]:
        found = model.generate(**heard).sequences[0].tolist()
        return [token for token in found if token != config.blank_token_id]

    family = "parakeet_tdt" if config.model_type == TDT else "parakeet_rnnt"
    front = parakeet.front_of(checkpoint, config, extractor, max_s) | {
        "decoder": "transducer",
        "blank": config.blank_token_id,
        "max_symbols": config.max_symbols_per_step,
        "durations": list(config.durations) if config.model_type == TDT else [],
        "window": window,
    }
    return Exported(
        **parakeet.described(checkpoint, family, options),
        engine=family.replace("_", "-"),
        graphs=[
            GraphExport(encoder_graph(config, max_s, max_batch), Projected(model)),
            GraphExport(decoder_graph(config, window, max_batch), Decoder(model).eval()),
        ],
        front=front,
        files={"tokens.json": tokens},
        front_reference=parakeet.reference(extractor, tokens, said),
    )


def encoder_graph(config: Any, max_s: float, max_batch: int) -> Graph:
    return Graph(
        name="encoder",
        inputs=parakeet.encoder_inputs(config.encoder_config.num_mel_bins),
        outputs=(
            Tensor("ENCODED", "FP32", ("S", config.decoder_hidden_size)),
            Tensor("FRAMES", "INT64", ()),
        ),
        axes=(time := parakeet.time_axis(max_s, config),),
        derived=(parakeet.frames_axis(time, config),),
        max_batch=max_batch,
        tolerance=1e-3,
        exact=("FRAMES",),
    )


def decoder_graph(config: Any, window: int, max_batch: int) -> Graph:
    width, layers = config.decoder_hidden_size, config.num_decoder_layers
    durations = len(config.durations) if config.model_type == TDT else 0
    outputs = [Tensor("TOKENS", "INT64", ("W",))]
    if durations:
        outputs.append(Tensor("DURATIONS", "INT64", ("W",)))
    outputs.append(Tensor("LOGITS", "FP32", ("W", config.vocab_size + durations)))
    return Graph(
        name="decoder",
        inputs=(
            Tensor("ENCODED", "FP32", ("W", width)),
            Tensor("TOKEN", "INT64", (), "integers", 0, config.vocab_size),
        ),
        outputs=tuple(outputs),
        states=(
            State("state_00_predicted", "new_00_predicted", (width,)),
            State("state_01_hidden", "new_01_hidden", (layers, width)),
            State("state_02_cell", "new_02_cell", (layers, width)),
        ),
        start="START",
        axes=(Axis("W", 1, window, MOST_WINDOW),),
        max_batch=max_batch,
        tolerance=1e-3,
        exact=tuple(tensor.name for tensor in outputs if tensor.dtype == "INT64"),
    )


def _model(checkpoint: Checkpoint, options: Mapping[str, str]) -> tuple[Any, Any, Any]:
    import transformers

    if _is_tdt(checkpoint, options):
        make, configure = transformers.ParakeetForTDT, transformers.ParakeetTDTConfig
    else:
        make, configure = transformers.ParakeetForRNNT, transformers.ParakeetRNNTConfig
    config = checkpoint.config(configure, SMALL)
    extractor = parakeet.extractor_of(checkpoint, config)
    model = checkpoint.model(make, config, enliven=lambda made: enliven(made, extractor))
    if model.generation_config.decoder_start_token_id is None:
        model.generation_config.decoder_start_token_id = config.blank_token_id
        model.generation_config.pad_token_id = config.pad_token_id
    return model, config, extractor


def _is_tdt(checkpoint: Checkpoint, options: Mapping[str, str]) -> bool:
    """Raises: ExportError."""
    name = checkpoint.source.removeprefix(RANDOM)
    if checkpoint.is_random and name == "small":
        return options.get("tdt", "") == "true"
    path = checkpoint.folder / "config.json" if checkpoint.folder is not None else Path(name)
    try:
        return str(json.loads(path.read_text("utf-8")).get("model_type")) == TDT
    except (OSError, json.JSONDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from None


def enliven(model: Any, extractor: Any) -> None:
    """Random weights of which blank wins about half of the frames, and every duration is told now and then."""
    parakeet.liven_encoder(model)
    model.decoder.embedding.weight.mul_(6.0)
    model.joint.head.weight.mul_(2.0)
    blank, size = model.config.blank_token_id, model.config.vocab_size
    timed = model.config.model_type == TDT  # its tokens pass over frames, so that there are fewer
    frames = model.get_audio_features(**parakeet.extracted(extractor, bursts(8.0, 1))).pooler_output[0]
    model.joint.head.weight[blank] *= 0.2  # no state of the decoder says blank for ever
    symbols = torch.arange(min(blank, 64))[:, None]
    predicted = model.decoder(symbols)
    # What was said last matters as much as what is heard: otherwise a frame says its token again and again.
    scale = frames.std(0).mean() / predicted.std(0).mean()
    model.decoder.decoder_projector.weight.mul_(scale)
    model.decoder.decoder_projector.bias.mul_(scale)
    logits = model.joint(predicted * scale, frames[None]).flatten(0, 1)
    model.joint.head.bias[:size] += parakeet.balance(logits[:, :size], blank, 0.4 if timed else 0.85)
    if timed:
        durations = logits[:, size:]
        # transformers 5.23 looks for the next token among the durations too: they must be less likely.
        model.joint.head.bias[size:] -= durations.mean(0) + durations.std() * 6 + 20.0
