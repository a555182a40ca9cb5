"""VITS and MMS-TTS (transformers' VitsModel), stochastic or plain durations, one or many speakers.

Options: speakers=N and durations=plain (of random weights), voices=NAME,NAME, language=BCP-47, license=SPDX,
seed=N (the same noise for every request), first_ms and later_ms (new audio of the first window, of later ones).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import VitsConfig, VitsModel

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.models.tts.windows import Windowing
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported, GraphExport
from parley_export.families import vits_graphs, vits_reference
from parley_export.families.vits_text import VOCABULARY, language_of, license_of, sample, text_of
from parley_export.receptive_field import receptive_field
from parley_export.voices import add_texts, npy, parameters_of, voice_table

SMALL = {
    "vocab_size": len(VOCABULARY), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 128,
    "flow_size": 32, "spectrogram_bins": 33, "upsample_initial_channel": 64, "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [1, 3]], "duration_predictor_num_flows": 3,
    "duration_predictor_filter_channels": 64, "prior_encoder_num_flows": 4, "prior_encoder_num_wavenet_layers": 2,
    "posterior_encoder_num_wavenet_layers": 1,
}  # fmt: skip
LEAST_TOKENS, USUAL_TOKENS, MOST_TOKENS = 1, 120, 1000
FIRST_MS, LATER_MS = 80, 1000
FLOW_FRAMES = 128
"""New frames of a later window of the flow, which costs a fiftieth of the decoder."""
GRAIN = 4
MAX_BATCH = 8
SECONDS_A_TOKEN = 0.035
"""Of random weights: half of what people take for a letter, for it and its blank."""


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """Raises: ExportError."""
    model = model_of(checkpoint, options)
    config = model.config
    hop = int(np.prod(config.upsample_rates))
    flow, decoder = windowings(model, hop, options)

    language = options.get("language") or language_of(checkpoint)
    text = text_of(checkpoint, config, language)
    files = dict(text.files)
    several = config.num_speakers > 1
    if several:
        files["speakers.npy"] = npy(model.embed_speaker.weight.numpy())
    voices = voice_table(max(config.num_speakers, 1), options.get("voices", ""), language)
    sentence = sample(text, language)
    references = vits_reference.measure(model, text.ids(sentence), voices)
    add_texts(references, text.ids, [sentence])
    return Exported(
        name=f"vits_{checkpoint.label}".lower().replace("-", "_"),
        kind="tts",
        engine="vits",
        graphs=_graphs(model, flow, decoder),
        front={
            "kind": "vits",
            "text": text.front,
            "sample_rate": config.sampling_rate,
            "speaking_rate": config.speaking_rate,
            "noise_scale": config.noise_scale,
            "noise_scale_duration": config.noise_scale_duration,
            "flow_windows": told(flow),
            "decoder_windows": told(decoder),
            "voices": voices,
            **({"seed": int(options["seed"])} if "seed" in options else {}),
        },
        files=files,
        parameters=parameters_of(voices, config.sampling_rate),
        license=options.get("license") or license_of(checkpoint),
        front_reference=references,
    )


def model_of(checkpoint: Checkpoint, options: Mapping[str, str]) -> Any:
    """The VitsModel, with plain weights. Raises: ExportError."""
    speakers = int(options.get("speakers", "1"))
    small = {
        **SMALL, "num_speakers": speakers, "speaker_embedding_size": 16 if speakers > 1 else 0,
        "use_stochastic_duration_prediction": options.get("durations", "") != "plain",
    }  # fmt: skip
    model = checkpoint.model(VitsModel, checkpoint.config(VitsConfig, small), enliven=enliven)
    return vits_graphs.without_weight_norm(model)


def windowings(model: Any, hop: int, options: Mapping[str, str]) -> tuple[Windowing, Windowing]:
    """Of the flow and of the decoder. Raises: ExportError."""
    config = model.config
    size = (1, config.speaker_embedding_size) if config.num_speakers > 1 else None
    speaker = [] if size is None else [torch.zeros(size)]
    flow, decoder = vits_graphs.Flow(model), vits_graphs.Decoder(model)

    def latents(prior: Any) -> Any:
        return flow(prior, torch.tensor([prior.shape[-1]]), *speaker)

    def audio(latents: Any) -> Any:
        return decoder(latents, *speaker)

    try:
        left, right = receptive_field(audio, (config.flow_size,), hop)
        before, after = receptive_field(latents, (config.flow_size,), 1)
        windows = decoder_windows(hop, left, right, config.sampling_rate, options)
        # One window of the flow is enough for the first one of the decoder.
        return Windowing(1, before, after, windows.size(0), max(FLOW_FRAMES, windows.size(0)), GRAIN), windows
    except ValueError as error:
        raise ExportError(f"this VITS cannot be windowed: {error}") from None


def decoder_windows(hop: int, left: int, right: int, rate: int, options: Mapping[str, str]) -> Windowing:
    """By the options first_ms and later_ms. Raises: ValueError."""
    first, later = (
        math.ceil(int(options.get(key, usual)) * rate / (1000 * hop))
        for key, usual in (("first_ms", FIRST_MS), ("later_ms", LATER_MS))
    )
    return Windowing(hop, left, right, max(first, 1), max(later, first, 1), GRAIN)


def enliven(model: Any) -> None:
    """Random weights that speak: about as fast as people, and near -20 dBFS, louder here and softer there."""
    config, size, project = model.config, model.config.flow_size, model.text_encoder.project
    if config.num_speakers > 1:
        model.embed_speaker.weight.normal_(std=0.3)
    for name, weight in model.text_encoder.encoder.named_parameters():
        if weight.dim() > 1 and "layer_norm" not in name:
            weight.normal_(0, weight[0].numel() ** -0.5)  # or else attention is flat, whatever its weights
    project.bias.zero_()
    project.weight[size:] *= 0.3  # of the deviations
    project.bias[size:] = -1.0
    # One direction dominates the means, so that tokens differ in loudness.
    project.weight[:size] = (
        0.2 * project.weight[:size] + project.weight[:size, :1] * project.weight[:1] * size**0.5
    )
    for coupling in model.flow.flows:
        coupling.conv_post.weight *= 0.3
    for part in (model.flow, model.decoder):
        for name, parameter in part.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # or else they hum, whatever is said
    decoder = model.decoder
    decoder.conv_post.weight -= decoder.conv_post.weight.mean(2, keepdim=True)
    ids = np.zeros(81, np.int64)
    ids[1::2] = np.arange(40) % config.vocab_size
    for _ in range(3):  # frames are rounded up, and the end of the decoder bends what is loud
        audio = vits_reference.said(model, ids, 0)
        level = vits_reference.voiced_level(audio, config.sampling_rate)
        decoder.conv_post.weight *= vits_reference.LEVEL / max(level, 1e-6)
        slower = math.log(SECONDS_A_TOKEN * config.sampling_rate * len(ids) / len(audio))
        if config.use_stochastic_duration_prediction:
            model.duration_predictor.flows[0].translate[0] -= slower
        else:
            model.duration_predictor.proj.bias += slower


def _graphs(model: Any, flow: Windowing, decoder: Windowing) -> list[GraphExport]:
    config = model.config
    channels = config.flow_size
    speaker: tuple[Tensor, ...] = ()
    if config.num_speakers > 1:
        speaker = (Tensor("speaker", "FP32", (config.speaker_embedding_size,)),)
    stochastic = config.use_stochastic_duration_prediction
    noise = (Tensor("noise", "FP32", (2, "tokens")),) if stochastic else ()
    tokens = Axis("tokens", LEAST_TOKENS, USUAL_TOKENS, MOST_TOKENS)
    text = Graph(
        "text",
        inputs=(
            Tensor("ids", "INT64", ("tokens",), "integers", 0, config.vocab_size),
            Tensor("length", "INT64", (), "length:tokens"),
            *noise,
            *speaker,
        ),
        outputs=(
            Tensor("log_durations", "FP32", ("tokens",)),
            Tensor("mean", "FP32", (channels, "tokens")),
            Tensor("log_deviation", "FP32", (channels, "tokens")),
        ),
        axes=(tokens,),
        max_batch=MAX_BATCH,
        tolerance=2e-4,  # of logarithms that splines, one behind the other, made of the noise
    )
    frames = Axis("frames", 1, flow.size(1), flow.largest)
    to_latents = Graph(
        "flow",
        inputs=(
            Tensor("prior", "FP32", (channels, "frames")),
            Tensor("length", "INT64", (), "length:frames"),
            *speaker,
        ),
        outputs=(Tensor("latents", "FP32", (channels, "frames")),),
        axes=(frames,),
        max_batch=MAX_BATCH,
    )
    to_audio = Graph(
        "decoder",
        inputs=(Tensor("latents", "FP32", (channels, "frames")), *speaker),
        outputs=(Tensor("audio", "FP32", ("samples",)),),
        axes=(Axis("frames", 1, decoder.size(1), decoder.largest),),
        max_batch=MAX_BATCH,
    )
    return [
        GraphExport(text, vits_graphs.Text(model).eval()),
        GraphExport(to_latents, vits_graphs.Flow(model).eval()),
        GraphExport(to_audio, vits_graphs.Decoder(model).eval()),
    ]


def told(windows: Windowing) -> dict[str, int]:
    """As front.json has them."""
    return {name: getattr(windows, name) for name in ("hop", "left", "right", "first", "later", "grain")}
