"""FastSpeech2Conformer with its HiFi-GAN (ESPnet's, as transformers has them).

Facts: transformers.models.fastspeech2_conformer; the published checkpoints (espnet/fastspeech2_conformer,
…_hifigan, …_with_hifigan: LJSpeech) speak at 22,050 Hz, which their configurations do not say.

Options: vocoder=FOLDER (where the checkpoint has none), sample_rate=HZ, languages=en-US,… (of the language ids,
in order), voices=NAME,… (of the speaker ids, in order), embeddings=FILE.npy (speaker embeddings [n, D], for models
that take one), license=SPDX.
"""

from __future__ import annotations

import json
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
from parley_export.families.fastspeech2_graphs import MelDecoder, TextEncoder, conditions, maskings
from parley_export.text_data import espnet_text
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

RATE = 22_050
CONSONANTS = [
    "B",
    "CH",
    "D",
    "DH",
    "F",
    "G",
    "HH",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
]
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
MOST_IDS, MOST_FRAMES = 512, 4096
"""Of one piece of text; transformers' positions end at 5,000."""
SMALL = {
    "hidden_size": 64, "num_mel_bins": 40, "num_speakers": 2,
    "encoder_layers": 2, "encoder_linear_units": 128, "decoder_layers": 2, "decoder_linear_units": 128,
    "duration_predictor_channels": 64, "energy_predictor_channels": 64, "pitch_predictor_channels": 64,
    "speech_decoder_postnet_units": 64,
}  # fmt: skip
PHONES = {
    phone: number
    for number, phone in enumerate(
        [
            "<blank>",
            "<unk>",
            *CONSONANTS,
            *(vowel + stress for vowel in VOWELS for stress in "012"),
            *".,?!'",
            "<sos/eos>",
        ]
    )
}
"""Of random weights: the phone set of CMUdict, and marks."""


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    text = _text(checkpoint)
    model, hifigan = _models(checkpoint, options, text.size)
    config, rate = model.config, int(options.get("sample_rate", RATE))
    vocoder = Vocoder(hifigan)
    windows = windows_of(vocoder, config.num_mel_bins, hop_of(hifigan.config), rate)
    embeddings = None
    if model.speaker_embed_dim:
        embeddings = given_embeddings(checkpoint, options, model.speaker_embed_dim)
    speakers = len(embeddings) if embeddings is not None else config.num_speakers or 1
    voices = voice_table(
        speakers,
        options.get("voices", ""),
        options.get("languages", "en-US"),
        by_language=bool(model.multilingual_model),
    )
    reference = measured(
        voices, text, lambda ids, voice: spoken(model, hifigan, ids, voice, embeddings), rate
    )
    inputs = _given(model)
    text_masking, frame_masking = maskings(model)
    return Exported(
        name=f"fastspeech2_{checkpoint.label}",
        kind="tts",
        engine="fastspeech2",
        graphs=[
            GraphExport(_encoder_graph(config, inputs), TextEncoder(model, text_masking, MOST_IDS)),
            GraphExport(_decoder_graph(config), MelDecoder(model, frame_masking, MOST_FRAMES)),
            vocoder_export(vocoder, config.num_mel_bins, windows),
        ],
        front={
            "kind": "acoustic",
            "text": text.front,
            "rate": rate,
            "voices": voices,
            "slowness": config.speaking_speed,
            "most_ids": MOST_IDS,
            "most_frames": MOST_FRAMES,
            "windows": windows,
        },
        files=text.files | ({"embeddings.npy": npy(embeddings)} if embeddings is not None else {}),
        parameters=parameters_of(voices, rate),
        license=options.get("license", "CC0-1.0" if checkpoint.is_random else "LicenseRef-unknown"),
        front_reference=reference,
    )


def spoken(
    model: Any,
    hifigan: Any,
    ids: NDArray[np.int64],
    voice: Mapping[str, Any],
    embeddings: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The whole utterance by transformers' own forward, one shot: [n]."""
    told: dict[str, Any] = {}
    if model.multispeaker_model:
        told["speaker_ids"] = torch.tensor([[voice["speaker"]]])
    if model.multilingual_model:
        told["lang_ids"] = torch.tensor([[voice["language_id"]]])
    if embeddings is not None:
        told["speaker_embedding"] = torch.from_numpy(embeddings[[voice["speaker"]]])
    with torch.no_grad():
        mel = model(torch.from_numpy(ids)[None], return_dict=True, **told).spectrogram
        audio: NDArray[np.float32] = hifigan(mel)[0].numpy()
    return audio


def _models(checkpoint: Checkpoint, options: Mapping[str, str], ids: int) -> tuple[Any, Any]:
    from transformers import (
        FastSpeech2ConformerConfig,
        FastSpeech2ConformerHifiGan,
        FastSpeech2ConformerHifiGanConfig,
        FastSpeech2ConformerModel,
        FastSpeech2ConformerWithHifiGan,
        FastSpeech2ConformerWithHifiGanConfig,
    )

    if checkpoint.folder is not None:
        if "vocoder" not in options:
            both = checkpoint.model(
                FastSpeech2ConformerWithHifiGan, checkpoint.config(FastSpeech2ConformerWithHifiGanConfig, {})
            )
            return both.model, both.vocoder
        folder = Checkpoint(checkpoint.family, options["vocoder"], Path(options["vocoder"]))
        return (
            checkpoint.model(FastSpeech2ConformerModel, checkpoint.config(FastSpeech2ConformerConfig, {})),
            folder.model(FastSpeech2ConformerHifiGan, folder.config(FastSpeech2ConformerHifiGanConfig, {})),
        )
    config = checkpoint.config(FastSpeech2ConformerConfig, SMALL)
    config.vocab_size = max(ids, config.vocab_size)
    small = SMALL_HIFIGAN if checkpoint.source == "random:small" else {}
    wave = FastSpeech2ConformerHifiGanConfig(model_in_dim=config.num_mel_bins, **small)
    model = checkpoint.model(FastSpeech2ConformerModel, config, enliven=_enliven)
    hifigan = checkpoint.model(FastSpeech2ConformerHifiGan, wave, enliven=lambda made: _tuned(made, model))
    return model, hifigan


def _enliven(model: Any) -> None:
    """About 7 frames (80 ms) for each id, none the same; frames that differ."""
    linear = model.duration_predictor.linear
    nn.init.normal_(linear.weight, std=0.3 / math.sqrt(linear.in_features))
    nn.init.constant_(linear.bias, math.log(8.0))
    for layer in model.speech_decoder_postnet.layers:
        nn.init.normal_(
            layer.conv.weight, std=0.5 / math.sqrt(layer.conv.in_channels * layer.conv.kernel_size[0])
        )
    nn.init.normal_(model.speech_decoder_postnet.feat_out.weight, std=1 / math.sqrt(model.hidden_size))


def _tuned(hifigan: Any, model: Any) -> None:
    """A vocoder used to this model's frames: their mean and their scale are in it, as in published ones."""
    ids = torch.randint(1, model.vocab_size, (1, 60))
    frames = model(ids, return_dict=True).spectrogram[0]
    hifigan.mean.copy_(frames.mean(0))
    hifigan.scale.copy_(frames.std(0).clamp(min=1e-3))
    enliven_hifigan(hifigan)


def _given(model: Any) -> tuple[Tensor, ...]:
    config = model.config
    told = {
        "speaker": Tensor("speaker", "INT64", (1,), "integers", 0, config.num_speakers or 1),
        "language": Tensor("language", "INT64", (1,), "integers", 0, config.num_languages or 1),
        "embedding": Tensor("embedding", "FP32", (config.speaker_embed_dim or 1,)),
    }
    return tuple(told[name] for name, there in conditions(model) if there)


def _encoder_graph(config: Any, given: tuple[Tensor, ...]) -> Graph:
    return Graph(
        "encoder",
        inputs=(
            Tensor("ids", "INT64", ("ids",), "integers", 1, config.vocab_size),
            Tensor("length", "INT64", (1,), "length:ids"),
            *given,
        ),
        outputs=(
            Tensor("hidden", "FP32", ("ids", config.hidden_size)),
            Tensor("durations", "FP32", ("ids",)),
        ),
        axes=(Axis("ids", 2, 60, MOST_IDS),),
        max_batch=MAX_BATCH,
        tolerance=5e-4,  # durations are frames, ten or thirty of them
    )


def _decoder_graph(config: Any) -> Graph:
    return Graph(
        "decoder",
        inputs=(
            Tensor("hidden", "FP32", ("frames", config.hidden_size)),
            Tensor("length", "INT64", (1,), "length:frames"),
        ),
        outputs=(Tensor("mel", "FP32", (config.num_mel_bins, "mel_frames")),),
        axes=(Axis("frames", 2, 200, MOST_FRAMES),),
        max_batch=MAX_BATCH,
    )


def _text(checkpoint: Checkpoint) -> VoiceText:
    """Raises: ExportError."""
    vocabulary = PHONES
    if checkpoint.folder is not None:
        try:
            vocabulary = json.loads((checkpoint.folder / "vocab.json").read_text("utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ExportError(f"{checkpoint.source} has no vocab.json of phonemes: {error}") from None
    return voice_text(*espnet_text(vocabulary, vocabulary["<sos/eos>"]))
