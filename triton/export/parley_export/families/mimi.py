"""Mimi's decoder (transformers MimiModel; Kyutai's codec: 12.5 frames a second, 24 kHz) as a step graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import MimiConfig, MimiModel

from gateway.triton.exported.description import Axis, Graph, Tensor
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.codec_front import front
from parley_export.exported import Exported, GraphExport
from parley_export.mimi_step import MimiStep

SMALL = {
    "hidden_size": 64, "num_filters": 8, "codebook_size": 64, "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16, "num_quantizers": 8, "num_hidden_layers": 2,
    "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "upsample_groups": 64,
    "sliding_window": 10, "layer_scale_initial_scale": 0.5, "initializer_range": 0.1, "encoder_config": None,
}  # fmt: skip
LOUDNESS = 0.1
"""RMS of what random weights say."""
CODEBOOKS = 8
"""Spoken at a time where no option says otherwise: as many as Moshi speaks."""
FRAMES = Axis("frames", least=1, usual=4, most=64)
MAX_BATCH = 64
REFERENCE_FRAMES = 29


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: codebooks=8, and those of codec_front. Raises: ExportError."""
    config = checkpoint.config(MimiConfig, SMALL)
    model = checkpoint.model(MimiModel, config, enliven=lambda made: enliven(made, checkpoint.seed))
    try:
        step = MimiStep(model, int(options.get("codebooks", min(CODEBOOKS, config.num_quantizers))))
    except ValueError as error:
        raise ExportError(f"{checkpoint.source}: {error}") from None
    codec = {
        "codec": "mimi",
        "rate": config.sampling_rate,
        "samples": step.samples,
        "rows": step.codebooks,
        "frames": {"first": 1, "later": 4},
    }
    kind, told, parameters = front(codec, range(step.codebooks), config.codebook_size, options)
    return Exported(
        name=f"mimi_{checkpoint.label}".replace("-", "_").replace(".", "_"),
        kind=kind,
        engine="mimi",
        graphs=[GraphExport(graph(step, config.codebook_size), step)],
        front=told,
        parameters=parameters,
        license=checkpoint.licensed("CC-BY-4.0", "kyutai"),
        front_reference=reference(model, step, config.codebook_size, checkpoint.seed),
    )


def graph(step: MimiStep, codebook_size: int) -> Graph:
    return Graph(
        name="decoder",
        inputs=(
            Tensor("codes", "INT64", (step.codebooks, FRAMES.name), "integers", high=float(codebook_size)),
        ),
        outputs=(Tensor("audio", "FP32", ("samples",)),),
        states=step.states,
        start="start",
        axes=(FRAMES,),
        max_batch=MAX_BATCH,
        tolerance=2e-4,
    )


def reference(model: Any, step: MimiStep, codebook_size: int, seed: int) -> dict[str, Any]:
    """Codes, and what MimiModel.decode makes of all of them at once."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, codebook_size, (1, step.codebooks, REFERENCE_FRAMES), generator=draw)
    with torch.no_grad():
        audio = model.decode(codes).audio_values
    return {"ids_0": codes[0].numpy(), "seed_0": np.array(seed), "audio_0": audio[0, 0].numpy()}


def enliven(model: Any, seed: int) -> None:
    """Random codebooks, which a fresh model has at zero, and a voice of about -20 dBFS."""
    draw = torch.Generator().manual_seed(seed)
    for name, table in model.named_buffers():
        if name.endswith("codebook.embed_sum"):
            table.copy_(torch.randn(table.shape, generator=draw))
    config = model.config
    codes = torch.randint(0, config.codebook_size, (1, config.num_quantizers, 50), generator=draw)
    last = model.decoder.decoder_seanet.layers[-1].conv
    made = model.decode(codes).audio_values
    scale = LOUDNESS / float(made.std())
    last.weight.mul_(scale)
    last.bias.copy_(last.bias * scale - made.mean() * scale)
