"""SpeechT5 (text to speech) with its HiFi-GAN.

Facts: transformers.models.speecht5; published as microsoft/speecht5_tts and microsoft/speecht5_hifigan: 16 kHz, 16 ms a
frame, two frames a step, characters, a speaker embedding (x-vector) of 512 numbers.

Options: vocoder=FOLDER (a checkpoint has none), embeddings=FILE.npy (speakers [n, 512]), voices=NAME,…,
languages=en-US,…, threshold=0.5, shortest=0, longest=20 (frames for each id of the text), sample_rate=HZ, license=SPDX,
lookahead_db=-70 (the vocoder waits for as few frames as it differs by no more with; without it, for all that matter).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gateway.triton.exported.description import Axis, Graph, Tensor
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.families.speecht5_graphs import Postnet, Step, TextEncoder
from parley_export.lookahead import shortened
from parley_export.text_data import speecht5_text
from parley_export.vocoders import (
    MAX_BATCH,
    SMALL_HIFIGAN,
    Vocoder,
    enliven_hifigan,
    hop_of,
    vocoder_export,
    windows_of,
)
from parley_export.voices import (
    VoiceText,
    given_embeddings,
    measured,
    npy,
    parameters_of,
    voice_table,
    voice_text,
)

RATE = 16_000
MOST_STEPS = 1024
"""Of one piece of text: half a minute."""
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz.,?!'-"]
"""Of random weights; the special ones stand where the published vocabulary has them."""
SMALL = {
    "vocab_size": len(PIECES), "hidden_size": 64, "num_mel_bins": 40, "speaker_embedding_dim": 32,
    "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128,
    "speech_decoder_prenet_units": 32, "speech_decoder_postnet_units": 32, "max_speech_positions": 1200,
}  # fmt: skip
SMALL_LENGTHS = {"shortest": "4.8", "longest": "5.2"}
"""Of random weights, frames for each id: every sentence takes as long each time, or nearly."""


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    if checkpoint.is_random:
        options = {**SMALL_LENGTHS, **options}
    text = _text(checkpoint)
    model, hifigan = _models(checkpoint, options, text.size)
    config, rate = model.config, int(options.get("sample_rate", RATE))
    vocoder = Vocoder(hifigan, Postnet(model))
    windows = windows_of(vocoder, config.num_mel_bins, hop_of(hifigan.config), rate)
    lengths = {
        "threshold": float(options.get("threshold", 0.5)),
        "shortest": float(options.get("shortest", 0)),
        "longest": float(options.get("longest", 20)),
    }
    embeddings = given_embeddings(checkpoint, options, config.speaker_embedding_dim)
    voices = voice_table(len(embeddings), options.get("voices", ""), options.get("languages", "en-US"))
    frames: list[NDArray[np.float32]] = []

    def speak(ids: NDArray[np.int64], voice: Mapping[str, Any]) -> NDArray[np.float32]:
        return spoken(model, hifigan, ids, embeddings[voice["speaker"]], seed=0, frames=frames, **lengths)

    reference = measured(voices, text, speak, rate)
    waited: dict[str, Any] = {}
    if "lookahead_db" in options:
        exact = windows["right"]
        windows, difference = shortened(vocoder, windows, frames, float(options["lookahead_db"]))
        waited = {"exact": exact, "frames": windows["right"], "difference_db": round(difference, 1)}
    return Exported(
        name=f"speecht5_{checkpoint.label}",
        kind="tts",
        engine="speecht5",
        graphs=[
            GraphExport(_encoder_graph(config), TextEncoder(model)),
            GraphExport(_step_graph(config), Step(model)),
            vocoder_export(vocoder, config.num_mel_bins, windows),
        ],
        front={
            "kind": "autoregressive",
            "text": text.front,
            "rate": rate,
            # Random weights make another sentence of each draw, real ones hardly.
            "seed": 0 if checkpoint.is_random else None,
            "voices": voices,
            "most_ids": config.max_text_positions,
            "most_steps": min(MOST_STEPS, config.max_speech_positions),
            **lengths,
            "windows": windows,
            **({"lookahead": waited} if waited else {}),
        },
        files=text.files | {"embeddings.npy": npy(embeddings)},
        parameters=parameters_of(voices, rate),
        license=options.get("license", "CC0-1.0" if checkpoint.is_random else "LicenseRef-unknown"),
        front_reference=reference,
    )


def spoken(
    model: Any,
    hifigan: Any,
    ids: NDArray[np.int64],
    embedding: NDArray[np.float32],
    *,
    seed: int,
    threshold: float,
    shortest: float,
    longest: float,
    frames: list[NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """The whole utterance by transformers' own generation, its dropout drawn as the front draws it: [n].

    frames: gets what the postnet was given, [bins, T].
    """
    prenet, rng = model.speecht5.decoder.prenet, np.random.default_rng(seed)
    config = model.config
    drawn: list[NDArray[np.float32]] = []

    def dropout(inputs: Any, p: float) -> Any:
        if not drawn:
            drawn.extend(draw(rng, config))
        # Only the last position goes on into the decoder: the others were there in steps before.
        keep = torch.from_numpy(drawn.pop(0)) < p
        return torch.where(keep, inputs, 0.0) / (1 - p)

    made: list[NDArray[np.float32]] = []
    prenet._consistent_dropout = dropout
    listening = model.speech_decoder_postnet.feat_out.register_forward_hook(
        lambda _, __, out: made.append(out.reshape(-1, config.num_mel_bins).numpy())
    )
    try:
        with torch.no_grad():
            audio: NDArray[np.float32] = model.generate_speech(
                torch.from_numpy(ids)[None],
                torch.from_numpy(embedding)[None],
                threshold=threshold,
                minlenratio=shortest,
                maxlenratio=longest,
                vocoder=hifigan,
            ).numpy()
    finally:
        del prenet._consistent_dropout
        listening.remove()
    if frames is not None:
        frames.append(np.concatenate(made).T.copy())
    return audio


def draw(rng: np.random.Generator, config: Any) -> NDArray[np.float32]:
    """The noise of one step: [layers, units]."""
    return rng.random((config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units), np.float32)


def _models(checkpoint: Checkpoint, options: Mapping[str, str], ids: int) -> tuple[Any, Any]:
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = checkpoint.config(SpeechT5Config, SMALL)
    if checkpoint.folder is not None:
        if "vocoder" not in options:
            raise ExportError(
                "a SpeechT5 has no vocoder of its own: give --option vocoder=FOLDER, with a SpeechT5HifiGan in it"
            )
        other = Checkpoint(checkpoint.family, options["vocoder"], Path(options["vocoder"]))
        return (
            checkpoint.model(SpeechT5ForTextToSpeech, config),
            other.model(SpeechT5HifiGan, other.config(SpeechT5HifiGanConfig, {})),
        )
    config.vocab_size = max(ids, config.vocab_size)
    small = SMALL_HIFIGAN if checkpoint.source == "random:small" else {}
    wave = SpeechT5HifiGanConfig(model_in_dim=config.num_mel_bins, **small)
    return (
        checkpoint.model(SpeechT5ForTextToSpeech, config, enliven=_enliven),
        checkpoint.model(SpeechT5HifiGan, wave, enliven=_tuned),
    )


def _enliven(model: Any) -> None:
    """Frames that differ from step to step, and an end that comes by chance, after a while. What comes back through
    the prenet is made smaller there: else the least difference of two runtimes would grow from step to step."""
    out, prenet = model.speech_decoder_postnet, model.speecht5.decoder.prenet
    for module in model.speecht5.encoder.wrapped_encoder.layers.modules():
        if isinstance(module, nn.Linear):  # or else attention is flat, whatever its weights
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
    for linear in (*prenet.layers, prenet.final_layer, prenet.speaker_embeds_layer):
        nn.init.normal_(linear.weight, std=math.sqrt(0.5 / linear.in_features))
    nn.init.normal_(out.feat_out.weight, std=1 / math.sqrt(model.config.hidden_size))
    nn.init.normal_(out.prob_out.weight, std=1.5 / math.sqrt(model.config.hidden_size))
    nn.init.constant_(out.prob_out.bias, -3.0)
    for layer in out.layers:
        nn.init.normal_(
            layer.conv.weight, std=0.5 / math.sqrt(layer.conv.in_channels * layer.conv.kernel_size[0])
        )


def _tuned(hifigan: Any) -> None:
    """Published vocoders have a mean and a scale of their frames in them."""
    nn.init.normal_(hifigan.mean, std=0.1)
    nn.init.uniform_(hifigan.scale, 0.8, 1.2)
    enliven_hifigan(hifigan)


def _text(checkpoint: Checkpoint) -> VoiceText:
    """Raises: ExportError."""
    if checkpoint.folder is None:
        return voice_text(*speecht5_text(PIECES, PIECES.index("</s>")))
    import sentencepiece

    path = checkpoint.folder / "spm_char.model"
    try:
        read = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ExportError(f"{checkpoint.source} has no spm_char.model that can be read: {error}") from None
    return voice_text(*speecht5_text([read.id_to_piece(i) for i in range(len(read))], read.eos_id()))


def _encoder_graph(config: Any) -> Graph:
    look = _cache(config, "ids")
    return Graph(
        "encoder",
        inputs=(
            Tensor("ids", "INT64", ("ids",), "integers", 3, config.vocab_size),
            Tensor("length", "INT64", (1,), "length:ids"),
        ),
        outputs=(Tensor("keys", "FP32", look), Tensor("values", "FP32", look)),
        axes=(Axis("ids", 2, 60, config.max_text_positions),),
        max_batch=MAX_BATCH,
    )


def _step_graph(config: Any) -> Graph:
    text, past = _cache(config, "ids"), _cache(config, "past")
    one = (past[0], past[1], past[3])
    steps = min(MOST_STEPS, config.max_speech_positions)
    units = (config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
    return Graph(
        "step",
        inputs=(
            Tensor("frame", "FP32", (config.num_mel_bins,)),
            Tensor("noise", "FP32", units, "uniform", 0.0, 1.0),
            Tensor("embedding", "FP32", (config.speaker_embedding_dim,)),
            Tensor("position", "INT64", (1,), "length:past"),
            Tensor("length", "INT64", (1,), "length:ids"),
            Tensor("keys", "FP32", text),
            Tensor("values", "FP32", text),
            Tensor("past_keys", "FP32", past),
            Tensor("past_values", "FP32", past),
        ),
        outputs=(
            Tensor("frames", "FP32", (config.reduction_factor, config.num_mel_bins)),
            Tensor("stop", "FP32", (1,)),
            Tensor("key", "FP32", one),
            Tensor("value", "FP32", one),
        ),
        axes=(Axis("ids", 2, 60, config.max_text_positions), Axis("past", 2, 64, steps)),
        max_batch=MAX_BATCH,
    )


def _cache(config: Any, axis: str) -> tuple[int, int, str, int]:
    heads = config.decoder_attention_heads
    return config.decoder_layers, heads, axis, config.hidden_size // heads
