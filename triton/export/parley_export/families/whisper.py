"""Whisper (WhisperForConditionalGeneration): log-mel features of a fixed length to text, in one or many languages.

Options: multilingual=true (random:small builds the multilingual vocabulary's shape), language (of a model that
knows one; default en), beam (default 1), tokens_per_s (bound on what is written; default 12, multilingual 30).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import (
    AutoTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from gateway.triton.exported.description import Graph, Tensor
from parley_export import seq2seq
from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported, GraphExport
from parley_export.features import feature_settings
from parley_export.seq2seq import attend, causal, pick, split
from parley_export.seq2seq_front import (
    Decoding,
    license_of,
    memory_mb,
    model_name,
    number,
    reference,
    settling,
    stripped,
)
from parley_export.tokens import made_vocabulary, tokens_file

FRAME_S = 0.02
ENCODER_BATCH = 8
TOKENS_PER_S, MANY_TOKENS_PER_S = 12.0, 30.0
"""Fast English is 5 words a second, 7 tokens; scripts that the vocabulary lacks take a token a byte."""
SMALL_LANGUAGES = ("en", "de", "es", "fr")
REAL_VOCABULARY = 51_864
END_GAIN = 1.5


class Encoder(nn.Module):
    """features [B, mels, frames] -> hidden [B, T, D], and of each decoder layer the cross attention's keys and
    values [B, H, T, D / H]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.encoder
        self.cross = nn.ModuleList(layer.encoder_attn for layer in model.model.decoder.layers)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.encoder(features).last_hidden_state
        made = [hidden]
        for attention in self.cross:
            made.append(split(attention.k_proj(hidden), attention.head_dim))
            made.append(split(attention.v_proj(hidden), attention.head_dim))
        return tuple(made)


class Decoder(nn.Module):
    """ids [B, S], past keys and values [B, H, P, D / H], cross ones -> logits [B, V] after the last token, the
    alignment heads' cross attention [B, A, S, T], keys and values with the new steps."""

    def __init__(self, model: Any, alignment: list[tuple[int, int]]) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.head = model.proj_out
        self.alignment = alignment

    def forward(self, ids: torch.Tensor, *kept: torch.Tensor) -> tuple[torch.Tensor, ...]:
        decoder = self.decoder
        count = 2 * len(decoder.layers)
        past, cross = kept[:count], kept[count:]
        positions, bias = causal(past[0], ids.shape[1])
        hidden = decoder.embed_tokens(ids) * decoder.embed_scale + decoder.embed_positions.weight[positions]
        present, seen = [], []
        for at, layer in enumerate(decoder.layers):
            own = layer.self_attn
            asked = layer.self_attn_layer_norm(hidden)
            key = torch.cat([past[2 * at], split(own.k_proj(asked), own.head_dim)], 2)
            value = torch.cat([past[2 * at + 1], split(own.v_proj(asked), own.head_dim)], 2)
            present += [key, value]
            query = split(own.q_proj(asked) * own.scaling, own.head_dim)
            hidden = hidden + own.out_proj(attend(query, key, value, bias)[0])
            other = layer.encoder_attn
            asked = layer.encoder_attn_layer_norm(hidden)
            query = split(other.q_proj(asked) * other.scaling, other.head_dim)
            heard, weights = attend(query, cross[2 * at], cross[2 * at + 1], None)
            hidden = hidden + other.out_proj(heard)
            chosen = [head for which, head in self.alignment if which == at]
            if chosen:
                seen.append(pick(weights, chosen))
            inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            hidden = hidden + layer.fc2(inner)
        logits = self.head(decoder.layer_norm(hidden)[:, -1])
        return (logits, torch.cat(seen, 1), *present)


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    config = checkpoint.config(WhisperConfig, small_config())
    model = checkpoint.model(WhisperForConditionalGeneration, config, enliven=_enliven)
    if checkpoint.is_random:
        _make_generation(model, options.get("multilingual", "") == "true")
        extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // 50
        )
    else:
        extractor = WhisperFeatureExtractor.from_pretrained(checkpoint.folder)
    decoding = decoding_of(model, options)
    encoder, decoder = graphs(model)
    tokens = _tokens(checkpoint, model)
    license_name, license_text = license_of(checkpoint)
    languages = [language for language in decoding.prompts if language] or [options.get("language", "en")]
    return Exported(
        name=model_name("whisper", checkpoint),
        kind="asr",
        engine="whisper",
        graphs=[encoder, decoder],
        front={
            "kind": "buffered",
            "decoder": "seq2seq",
            "features": feature_settings(extractor),
            "decoding": decoding.told(),
            "beam": int(number(options, "beam", 1)),
            **settling(checkpoint, options),
        },
        files={"tokens.json": tokens},
        parameters={
            "languages": ",".join(languages),
            "sample_rate": "16000",
            "memory_mb": memory_mb(model, shape_of(model), ENCODER_BATCH),
        },
        license=options.get("license", license_name),
        license_text=license_text,
        front_reference=reference(
            decoding,
            lambda audio, language, limit: generate(model, extractor, audio, language, limit),
            json.loads(tokens),
            checkpoint.seed,
        ),
    )


def graphs(model: Any) -> tuple[GraphExport, GraphExport]:
    """Encoder and decoder of a WhisperForConditionalGeneration."""
    config = model.config
    alignment, shape = alignment_heads(model), shape_of(model)
    heard = shape.most_heard
    encoder = Encoder(model)
    described = Graph(
        name="encoder",
        inputs=(Tensor("features", "FP32", (config.num_mel_bins, 2 * heard), "uniform", -1.0, 1.5),),
        outputs=(
            Tensor("hidden", "FP32", (heard, config.d_model)),
            *(
                Tensor(t.name, "FP32", (shape.heads, heard, shape.head_dim))
                for t in seq2seq.cross_tensors(shape)
            ),
        ),
        max_batch=ENCODER_BATCH,
        tolerance=1e-3,
    )
    features = np.random.default_rng(0).uniform(-1.0, 1.5, (3, config.num_mel_bins, 2 * heard))
    batch = features.astype(np.float32)
    cases = {"usual, 2 in a batch": {"features": batch[:2]}, "one, 1 in a batch": {"features": batch[2:]}}
    decoder = seq2seq.decoder_graph(shape)
    return (
        GraphExport(described, encoder, cases=seq2seq.encoder_cases(described, encoder, cases)),
        GraphExport(decoder, Decoder(model, alignment), cases=seq2seq.decoder_cases(decoder)),
    )


def shape_of(model: Any) -> seq2seq.Shape:
    config = model.config
    heard = config.max_source_positions
    return seq2seq.Shape(
        layers=config.decoder_layers, heads=config.decoder_attention_heads,
        head_dim=config.d_model // config.decoder_attention_heads, vocabulary=config.vocab_size,
        attentions=len(alignment_heads(model)), most_tokens=config.max_target_positions, usual_heard=heard,
        most_heard=heard, lengths=False,
    )  # fmt: skip


def alignment_heads(model: Any) -> list[tuple[int, int]]:
    """(layer, head) whose cross attention follows the words: the generation config's, else the upper half's."""
    told = getattr(model.generation_config, "alignment_heads", None)
    config = model.config
    if told:
        return sorted((int(layer), int(head)) for layer, head in told)
    return seq2seq.upper_heads(config.decoder_layers, config.decoder_attention_heads)


def decoding_of(model: Any, options: Mapping[str, str]) -> Decoding:
    """Prompts, suppressed tokens and bounds, from the generation config. Raises: ExportError."""
    told, config = model.generation_config, model.config
    start, end = int(told.decoder_start_token_id), told.eos_token_id
    plain = getattr(told, "no_timestamps_token_id", None)
    quiet = [] if plain is None else [int(plain)]
    languages: Mapping[str, int] = getattr(told, "lang_to_id", None) or {}
    if not getattr(told, "is_multilingual", bool(languages)):
        languages = {}
    tasks = getattr(told, "task_to_id", None) or {}
    task = [int(tasks["transcribe"])] if "transcribe" in tasks else []
    tokens = {name.strip("<|>").lower(): int(at) for name, at in languages.items()}
    tokens = dict(
        sorted(tokens.items(), key=lambda told: told[0] != "en")
    )  # the first is what a client is shown
    prompts = {name: [start, at, *task, *quiet] for name, at in tokens.items()}
    known = config.vocab_size
    return Decoding(
        prompts=prompts or {"": [start, *quiet]},
        detect=tokens,
        eos=[int(one) for one in (end if isinstance(end, (list, tuple)) else [end])],
        suppress=[at for at in told.suppress_tokens or [] if 0 <= at < known],
        begin_suppress=[at for at in told.begin_suppress_tokens or [] if 0 <= at < known],
        most_positions=config.max_target_positions,
        tokens_per_s=number(options, "tokens_per_s", MANY_TOKENS_PER_S if prompts else TOKENS_PER_S),
        max_s=config.max_source_positions * FRAME_S,
        frame_s=FRAME_S,
        median=int(getattr(config, "median_filter_width", 7)),
    )


def generate(
    model: Any, extractor: Any, audio: Any, language: str, limit: int, beams: int = 1, **more: Any
) -> list[int]:
    """transformers' own greedy (or beam) search over one utterance: the text's tokens."""
    heard = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    chosen = {"language": language, "task": "transcribe"} if language else {}
    told = model.generation_config
    transformers.logging.set_verbosity_error()  # of limits that are set twice
    with torch.no_grad():
        ids = model.generate(
            heard,
            do_sample=False,
            num_beams=beams,
            max_new_tokens=limit,
            return_timestamps=False,
            **chosen,
            **more,
        )[0]
    end = told.eos_token_id
    return stripped(ids.tolist(), [], end if isinstance(end, list) else [end])


def small_config() -> dict[str, Any]:
    """Six seconds of audio, 240 tokens of which the last 20 are special."""
    return {
        "vocab_size": 240, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 300,
        "max_target_positions": 96, "decoder_start_token_id": 221, "eos_token_id": 220, "pad_token_id": 220,
        "bos_token_id": 220, "begin_suppress_tokens": None, "init_std": 0.2,
    }  # fmt: skip


def _enliven(model: Any) -> None:
    """What is heard must weigh more than the token before it, or one token would repeat for ever."""
    model.model.encoder.conv1.weight.mul_(4.0)
    decoder = model.model.decoder
    decoder.embed_positions.weight.mul_(3.0)
    for layer in decoder.layers:
        layer.self_attn.q_proj.weight.mul_(3.0)
        layer.encoder_attn.q_proj.weight.mul_(8.0)
        for gained in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            gained.weight.mul_(6.0)
    # The end's row is zero (it is the padding too); it should come now and then within a test's seconds.
    end = decoder.embed_tokens.weight[model.config.eos_token_id]
    end.copy_(END_GAIN * model.config.init_std * torch.randn(end.shape))


def _make_generation(model: Any, multilingual: bool) -> None:
    """The special tokens of random weights, in the real vocabularies' order: end, start, languages, translate,
    transcribe, …, no timestamps (generation_config.json of openai/whisper-tiny and -tiny.en)."""
    config, told = model.config, model.generation_config
    start = config.decoder_start_token_id
    reserved = len(LANGUAGES) - 1 if config.vocab_size >= REAL_VOCABULARY else len(SMALL_LANGUAGES)
    told.decoder_start_token_id, told.eos_token_id, told.pad_token_id = start, start - 1, start - 1
    told.no_timestamps_token_id = start + reserved + 6
    told.is_multilingual = multilingual
    told.suppress_tokens = [1, 2, 7, *range(start, config.vocab_size)]
    told.begin_suppress_tokens = [3, start - 1]
    told.return_timestamps = False
    told._from_model_config = False  # or what is set here would be lost when it is saved and read again
    if multilingual:
        names = list(LANGUAGES)[:reserved] if reserved > len(SMALL_LANGUAGES) else SMALL_LANGUAGES
        told.lang_to_id = {f"<|{name}|>": start + 1 + at for at, name in enumerate(names)}
        told.task_to_id = {"translate": start + reserved + 1, "transcribe": start + reserved + 2}


def _tokens(checkpoint: Checkpoint, model: Any) -> bytes:
    size = model.config.vocab_size
    if checkpoint.folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
        return tokens_file(tokenizer, special=_timestamps(model), size=size)
    end = model.generation_config.eos_token_id
    return tokens_file(made_vocabulary(end, kind="bytelevel"), kind="bytelevel", size=size)


def _timestamps(model: Any) -> list[int]:
    plain = getattr(model.generation_config, "no_timestamps_token_id", None)
    return [] if plain is None else list(range(plain, model.config.vocab_size))
