"""Streaming FastConformer RNN-T (NVIDIA's Nemotron streaming) as one step graph: mel frames in, tokens out.

Options: lookahead=N (encoder frames of 80 ms; one graph has one), steps=N (symbols and frame advances of a chunk,
greedy_rnnt.py), max_batch=N; of random weights also multilingual=true (Nemotron 3.5: a language prompt).
No checkpoint of these classes has a CTC head beside the RNN-T.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gateway.triton.exported import description
from gateway.triton.exported.description import Graph, State
from gateway.triton.models.pieces import Pieces
from parley_export.checkpoint import RANDOM, Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.features import feature_settings
from parley_export.greedy_rnnt import GreedyRnnt, default_steps
from parley_export.sounds import bursts
from parley_export.streaming_encoder import StreamingEncoder
from parley_export.tokens import made_vocabulary, tokens_file

MULTILINGUAL = "nemotron3_5_asr"
MAX_BATCH = 32
BLANKS = 0.6
"""Of random weights: the share of frames on which blank wins."""
SMALL_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "subsampling_conv_channels": 16, "num_mel_bins": 80, "sliding_window": 13, "default_num_lookahead_tokens": 1,
}  # fmt: skip
SMALL = {
    "vocab_size": 65, "blank_token_id": 64, "decoder_hidden_size": 48, "num_decoder_layers": 2,
    "max_symbols_per_step": 4, "encoder_config": SMALL_ENCODER,
}  # fmt: skip
SMALL_PROMPTS = {"en-US": 0, "en": 0, "de-DE": 1, "de": 1, "auto": 2}


class Step(nn.Module):
    """encoder, greedy search and their states behind one another; inputs and outputs as the graph has them."""

    def __init__(self, model: Any, lookahead: int, steps: int) -> None:
        super().__init__()
        self.encoder = StreamingEncoder(model.encoder, lookahead)
        self.greedy = GreedyRnnt(model, self.encoder.frames, steps)
        self.projector = model.encoder_projector
        self.prompt = getattr(model, "prompt_projector", None)

    def forward(self, features: torch.Tensor, length: torch.Tensor, *rest: torch.Tensor) -> Any:
        prompt, rest = (rest[0], rest[1:]) if self.prompt is not None else (None, rest)
        fresh, states = rest[0] > 0.5, list(rest[1:])
        kept = len(self.encoder.state_dims())
        hidden, valid, encoder_states = self.encoder(features, length, fresh, states[:kept])
        if prompt is not None:
            hidden = self._prompted(hidden, prompt)
        encoded = self.projector(hidden)
        tokens, frames, count, left, decoder_states = self.greedy(encoded, valid, fresh, states[kept:])
        return tokens, frames, count, left, encoded, *encoder_states, *decoder_states

    def _prompted(self, hidden: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """The prompt's one-hot vector behind every frame's hidden state picks a column of the first weights."""
        assert self.prompt is not None
        width = hidden.shape[2]
        weight = self.prompt.linear_1.weight
        told = nn.functional.linear(hidden, weight[:, :width], self.prompt.linear_1.bias)
        told = told + nn.functional.embedding(prompt, weight[:, width:].T)
        return self.prompt.linear_2(self.prompt.act(told))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    model, config = _model(checkpoint, options)
    lookahead = _number(options, "lookahead", config.encoder_config.default_num_lookahead_tokens, 0)
    steps = _number(
        options, "steps", default_steps(lookahead + 1, config.max_symbols_per_step), lookahead + 2
    )
    max_batch = _number(options, "max_batch", MAX_BATCH, 1)
    if lookahead >= config.encoder_config.sliding_window:
        raise ExportError(
            f"a look-ahead of {lookahead} frames is more than the {config.encoder_config.sliding_window - 1} "
            "frames of left context: choose another lookahead="
        )
    graph, module = step_graph(model, lookahead, steps, max_batch)
    extractor = _extractor(checkpoint, config)
    prompts = _prompts(checkpoint, config)
    tokenizer, license_text = _tokenizer(checkpoint), _read(checkpoint, "LICENSE")
    size = config.vocab_size
    tokens = (
        tokens_file(tokenizer, special=[config.blank_token_id], size=size)
        if tokenizer is not None
        else tokens_file(made_vocabulary(size - 1), special=[config.blank_token_id], size=size)
    )
    front = {
        "kind": "streaming",
        "decoder": "rnnt_step",
        "features": feature_settings(extractor),
        "chunk_frames": module.encoder.mel_frames,
        "first_lead": module.encoder.factor - 1,
        "encoder_frame_ms": 1000 * module.encoder.factor * extractor.hop_length / extractor.sampling_rate,
        "lookahead": lookahead,
        "prompts": prompts,
        "default_prompt": int(getattr(config, "default_prompt_id", 0)),
    }
    languages = sorted({tag.split("-")[0].lower() for tag in prompts if tag != "auto"}) or ["en"]
    return Exported(
        name=f"fastconformer_{checkpoint.label}".replace("-", "_").replace(".", "_").lower(),
        kind="asr",
        engine="fastconformer",
        graphs=[GraphExport(graph, module)],
        front=front,
        files={"tokens.json": tokens},
        parameters={"languages": options.get("languages", ",".join(languages)), "sample_rate": "16000"},
        license=options.get("license", "CC0-1.0" if checkpoint.is_random else "LicenseRef-unknown"),
        license_text=license_text,
        front_reference=_reference(model, extractor, lookahead, prompts, Pieces(json.loads(tokens))),
    )


def step_graph(model: Any, lookahead: int, steps: int, max_batch: int) -> tuple[Graph, Step]:
    """The description and the module of the step graph of a NemotronAsrStreamingForRNNT or Nemotron3_5AsrForRNNT."""
    encoder = StreamingEncoder(model.encoder, lookahead)
    dims = encoder.state_dims() | GreedyRnnt(model, encoder.frames, steps).state_dims()
    lead = encoder.factor - 1
    inputs = [
        description.Tensor("FEATURES", "FP32", (encoder.mel_frames, encoder.mels)),
        # A first chunk's leading zeros count, so there is at least one frame behind them.
        description.Tensor("LENGTH", "INT64", (1,), "integers", lead + 1, encoder.mel_frames + 1),
    ]
    if hasattr(model, "prompt_projector"):
        inputs.append(description.Tensor("PROMPT", "INT64", (1,), "integers", 0, model.config.num_prompts))
    graph = Graph(
        name="step",
        inputs=tuple(inputs),
        outputs=(
            description.Tensor("TOKENS", "INT64", (steps,)),
            description.Tensor("TOKEN_FRAMES", "INT64", (steps,)),
            description.Tensor("COUNT", "INT64", (1,)),
            description.Tensor("LEFT", "INT64", (1,)),
            description.Tensor("ENCODED", "FP32", (encoder.frames, model.config.decoder_hidden_size)),
        ),
        states=tuple(
            State(f"state_{number:02}_{name}", f"new_{number:02}_{name}", size)
            for number, (name, size) in enumerate(dims.items())
        ),
        start="START",
        max_batch=max_batch,
        tolerance=1e-3,
        exact=("TOKENS", "TOKEN_FRAMES", "COUNT", "LEFT"),
    )
    return graph, Step(model, lookahead, steps).eval()


def _model(checkpoint: Checkpoint, options: Mapping[str, str]) -> tuple[Any, Any]:
    import transformers

    if _type(checkpoint, options) == MULTILINGUAL:
        small = SMALL | {"num_prompts": 8, "prompt_intermediate_size": 96, "default_prompt_id": 2}
        make, configure = transformers.Nemotron3_5AsrForRNNT, transformers.Nemotron3_5AsrConfig
        small["encoder_config"] = SMALL_ENCODER | {"model_type": "nemotron_asr_streaming_encoder"}
    else:
        small = SMALL
        make, configure = transformers.NemotronAsrStreamingForRNNT, transformers.NemotronAsrStreamingConfig
    config = checkpoint.config(configure, small)
    model = checkpoint.model(make, config, enliven=enliven)
    if model.generation_config.decoder_start_token_id is None:
        model.generation_config.decoder_start_token_id = config.blank_token_id
        model.generation_config.pad_token_id = config.pad_token_id
    return model, config


def _type(checkpoint: Checkpoint, options: Mapping[str, str]) -> str:
    """Of the configuration: what the checkpoint says, or a random one's file."""
    if checkpoint.folder is not None:
        path = checkpoint.folder / "config.json"
    elif checkpoint.source.removeprefix(RANDOM) == "small":
        return MULTILINGUAL if options.get("multilingual", "") == "true" else ""
    else:
        path = Path(checkpoint.source.removeprefix(RANDOM))
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from None
    return str(told.get("model_type", ""))


def enliven(model: Any) -> None:
    """Random weights that hear something: every layer as strong as its input, and a blank that wins BLANKS of
    the frames."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, weight[0].numel() ** -0.5)
        if name.endswith("conv_in.weight"):
            weight -= weight.mean((2, 3), keepdim=True)  # the level of the features says nothing
    model.decoder.embedding.weight.mul_(6.0)
    model.decoder.decoder_projector.weight.mul_(3.0)
    model.joint.head.weight.mul_(2.0)
    lookahead = model.config.encoder_config.default_num_lookahead_tokens
    features = torch.from_numpy(bursts(8.0, 1)[None])
    extractor = _extractor(None, model.config)
    heard = extractor(features, sampling_rate=16_000, return_tensors="pt")["input_features"]
    frames = model.get_audio_features(heard, num_lookahead_tokens=lookahead).pooler_output[0]
    blank = model.config.blank_token_id
    symbols = torch.arange(min(blank, 64))[:, None]
    logits = model.joint(model.decoder(symbols), frames[None])
    others = logits.clone()
    others[..., blank] = -torch.inf
    model.joint.head.bias[blank] += torch.quantile((others.amax(-1) - logits[..., blank]).flatten(), BLANKS)


def _reference(
    model: Any, extractor: Any, lookahead: int, prompts: Mapping[str, int], pieces: Pieces
) -> dict[str, np.ndarray[Any, Any]]:
    """transformers' own features and generate, over the whole audio at once."""
    told: dict[str, np.ndarray[Any, Any]] = {}
    prompt = {"prompt_ids": torch.tensor([model.config.default_prompt_id])} if prompts else {}
    for number, seconds in enumerate((3.3, 1.52, 0.31)):
        audio = bursts(seconds, 7 + number)
        told[f"audio_{number}"] = audio
        tokens = offline_tokens(model, extractor, audio, lookahead, **prompt)
        told[f"tokens_{number}"] = np.array(tokens, np.int64)
        told[f"text_{number}"] = np.array(" ".join(span.text for span in pieces.spans(tokens)))
    return told


def offline_tokens(model: Any, extractor: Any, audio: Any, lookahead: int, **prompt: Any) -> list[int]:
    """What transformers says to a whole utterance, without blanks."""
    heard = extractor(torch.from_numpy(audio), sampling_rate=16_000, return_tensors="pt")
    mask = heard["attention_mask"]
    frames = int(mask.sum())  # what lies behind is no frame of the utterance
    said = model.generate(
        input_features=heard["input_features"][:, :frames],
        attention_mask=mask[:, :frames],
        num_lookahead_tokens=lookahead,
        # Its own limit is one short of what the last frame may say.
        max_new_tokens=frames * (model.config.max_symbols_per_step + 1),
        **prompt,
    ).sequences[0]
    return [token for token in said.tolist() if token != model.config.blank_token_id]


def _extractor(checkpoint: Checkpoint | None, config: Any) -> Any:
    from transformers import AutoFeatureExtractor, NemotronAsrStreamingFeatureExtractor

    if checkpoint is not None and checkpoint.folder is not None:
        try:
            return AutoFeatureExtractor.from_pretrained(checkpoint.folder)
        except (OSError, ValueError) as error:
            raise ExportError(f"{checkpoint.source} has no feature extractor: {error}") from None
    return NemotronAsrStreamingFeatureExtractor(feature_size=config.encoder_config.num_mel_bins)


def _tokenizer(checkpoint: Checkpoint) -> Any:
    if checkpoint.folder is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint.folder)
    except (OSError, ValueError) as error:
        raise ExportError(f"{checkpoint.source} has no tokenizer: {error}") from None


def _prompts(checkpoint: Checkpoint, config: Any) -> dict[str, int]:
    """Language tag -> prompt, of a multilingual model: what its processor says, else transformers' own table."""
    if config.model_type != MULTILINGUAL:
        return {}
    if checkpoint.is_random:
        return {tag: at for tag, at in SMALL_PROMPTS.items() if at < config.num_prompts}
    from transformers.models.nemotron3_5_asr.processing_nemotron3_5_asr import DEFAULT_PROMPT_DICTIONARY

    told = _read(checkpoint, "processor_config.json")
    return dict((json.loads(told) if told else {}).get("prompt_dictionary") or DEFAULT_PROMPT_DICTIONARY)


def _read(checkpoint: Checkpoint, name: str) -> str:
    if checkpoint.folder is None or not (checkpoint.folder / name).exists():
        return ""
    return (checkpoint.folder / name).read_text("utf-8")


def _number(options: Mapping[str, str], key: str, default: int, least: int) -> int:
    try:
        value = int(options.get(key, default))
    except ValueError:
        value = least - 1
    if value < least:
        raise ExportError(f"option {key}={options[key]} must be a whole number of at least {least}")
    return value
