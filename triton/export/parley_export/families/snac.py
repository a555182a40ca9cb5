"""SNAC's decoder (github.com/hubertsiuzdak/snac: 24 kHz speech, three rates) as a graph for windows."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gateway.triton.exported.description import Axis, Graph, Tensor
from parley_export import snac_model
from parley_export.checkpoint import RANDOM, Checkpoint, ExportError
from parley_export.codec_front import front
from parley_export.exported import Exported, GraphExport
from parley_export.receptive_field import receptive_field
from parley_export.snac_model import SnacConfig, SnacDecoder

SMALL = {"encoder_dim": 4, "decoder_dim": 32, "codebook_size": 64}
LOUDNESS = 0.1
FRAMES = Axis("frames", least=1, usual=8, most=256)
MAX_BATCH = 64
ORPHEUS = (0, 1, 4, 2, 3, 5, 6)
"""Place of each row of codes among the seven tokens of Orpheus' frame."""
REFERENCE_FRAMES = 23


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: those of codec_front. Raises: ExportError."""
    try:
        model = snac_model.plain(_model(checkpoint))
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]  # torch's own goes on for a page
        raise ExportError(f"{checkpoint.source} holds no SNAC decoder: {first}") from None
    config = model.config
    before, after = field(model)
    rows = sum(config.codes)
    codec = {
        "codec": "snac",
        "rate": config.sampling_rate,
        "samples": config.samples,
        "rows": rows,
        "noise": sum(config.noise_values),
        "frames": {"first": 1, "later": 8, "before": before, "after": after},
    }
    order = ORPHEUS if config.codes == (1, 2, 4) else range(rows)
    kind, told, parameters = front(codec, order, config.codebook_size, options)
    return Exported(
        name=f"snac_{checkpoint.label}".replace("-", "_").replace(".", "_"),
        kind=kind,
        engine="snac",
        graphs=[GraphExport(graph(config), model)],
        front=told,
        parameters=parameters,
        license=checkpoint.licensed("MIT", "hubertsiuzdak"),
        front_reference=reference(model, checkpoint.seed),
    )


def graph(config: SnacConfig) -> Graph:
    codes = Tensor(
        "codes", "INT64", (sum(config.codes), FRAMES.name), "integers", high=float(config.codebook_size)
    )
    noise = Tensor("noise", "FP32", (sum(config.noise_values), FRAMES.name))
    return Graph(
        name="decoder",
        inputs=(codes, noise) if config.noise else (codes,),
        outputs=(Tensor("audio", "FP32", ("samples",)),),
        axes=(FRAMES,),
        max_batch=MAX_BATCH,
        tolerance=2e-4,
    )


def field(model: SnacDecoder) -> tuple[int, int]:
    """(before, after): whole frames around one that its samples depend on."""
    config = model.config
    left, right = receptive_field(model.decode, (config.latents,), config.hop)
    return math.ceil(left / config.latents_a_frame), math.ceil(right / config.latents_a_frame)


def reference(model: SnacDecoder, seed: int) -> dict[str, Any]:
    """Codes, and the audio of all of them at once; noise as the front draws it, frame by frame."""
    config = model.config
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, config.codebook_size, (sum(config.codes), REFERENCE_FRAMES))
    noise = np.random.default_rng(seed).standard_normal(
        (REFERENCE_FRAMES, sum(config.noise_values)), np.float32
    )
    with torch.no_grad():
        audio = model(torch.from_numpy(codes)[None], torch.from_numpy(noise.T.copy())[None])
    return {"ids_0": codes, "seed_0": np.array(seed), "audio_0": audio[0].numpy()}


def _model(checkpoint: Checkpoint) -> SnacDecoder:
    if checkpoint.folder is not None:
        return snac_model.load(checkpoint.folder)
    name = checkpoint.source.removeprefix(RANDOM)
    told = SMALL if name == "small" else json.loads(Path(name).read_text("utf-8"))
    torch.manual_seed(checkpoint.seed)
    model = SnacDecoder(SnacConfig.from_dict(told))
    with torch.no_grad():
        _enliven(model, checkpoint.seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _enliven(model: SnacDecoder, seed: int) -> None:
    """A voice of about -20 dBFS: what leaves the last convolution is scaled."""
    config = model.config
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, config.codebook_size, (1, sum(config.codes), 40), generator=draw)
    noise = torch.randn(1, sum(config.noise_values), 40, generator=draw)
    last = model.decoder.model[-1]
    last.bias.zero_()
    norm = last.parametrizations.weight.original0
    norm.mul_(1e-3)  # far from where tanh bends
    norm.mul_(LOUDNESS / float(model(codes, noise if config.noise else None).std()))
