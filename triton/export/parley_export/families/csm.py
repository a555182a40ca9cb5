"""Sesame CSM (transformers CsmForConditionalGeneration), with a LoRA adapter merged into it where one is given."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CsmConfig, CsmForConditionalGeneration

from parley_export import lora, mimi_step
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported
from parley_export.families import mimi
from parley_export.generated import generated, weights_of

CODEBOOKS, CODES, BYTES = 4, 128, 256
_LAYERS = {
    "vocab_size": CODES, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_codebooks": CODEBOOKS,
}  # fmt: skip
SMALL = {
    **_LAYERS, "text_vocab_size": BYTES + 4, "max_position_embeddings": 2048, "bos_token_id": BYTES,
    "pad_token_id": BYTES + 1, "audio_token_id": BYTES + 1, "audio_eos_token_id": BYTES + 2,
    "codebook_pad_token_id": CODES - 1, "codebook_eos_token_id": 0, "initializer_range": 0.3,
    "depth_decoder_config": {
        **_LAYERS, "backbone_hidden_size": 64, "max_position_embeddings": CODEBOOKS + 1, "initializer_range": 0.3,
    },
    "codec_config": {"model_type": "mimi", **mimi.SMALL, "num_quantizers": CODEBOOKS, "codebook_size": CODES},
}  # fmt: skip
SPEAKERS = "0,1"
SAMPLING = {"temperature": 0.9, "depth_temperature": 0.9, "top_k": 50}
"""Of the published checkpoint."""


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: lora=FOLDER, speakers=0,1, temperature (0: greedy), and those of `generated`. Raises: ExportError."""
    codec: dict[str, Any] = dict(SMALL["codec_config"])  # type: ignore[call-overload]
    codec.pop("encoder_config")  # a reference is encoded
    small = {**SMALL, "codec_config": codec}
    config = checkpoint.config(CsmConfig, small)
    model = checkpoint.model(
        CsmForConditionalGeneration, config, enliven=lambda made: _enliven(made, checkpoint)
    )
    if options.get("lora"):
        lora.merge(model, Path(options["lora"]))
    sampling: dict[str, Any] = dict(SAMPLING)
    for name in ("temperature", "depth_temperature"):
        sampling[name] = _number(options, name if name in options else "temperature", sampling[name])
    names = [name.strip() for name in options.get("speakers", SPEAKERS).split(",") if name.strip()]
    front = {
        "sampling": sampling,
        "tokens": "bytes" if checkpoint.is_random else "tokenizer",
        "most_s_a_sign": 0.02 if checkpoint.is_random else 0.25,
        "lora": options.get("lora", ""),
    }
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        files = weights_of(Path(saved))
    if checkpoint.folder is not None:
        kept = weights_of_tokenizer(checkpoint.folder)
        files = {**kept, **files}
    files["mimi_step.py"] = Path(mimi_step.__file__).read_bytes()
    return generated(
        checkpoint,
        options,
        rate=config.codec_config.sampling_rate,
        voices=[(name, "en-US") for name in names],
        license=checkpoint.licensed("Apache-2.0", "sesame"),
        front=front,
        files=files,
        memory_mb=400 + sum(map(len, files.values())) // (1 << 20),
        needs_gpu=not checkpoint.is_random,
    )


def weights_of_tokenizer(folder: Path) -> dict[str, bytes]:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return {f"checkpoint/{name}": (folder / name).read_bytes() for name in names if (folder / name).exists()}


def _enliven(model: Any, checkpoint: Checkpoint) -> None:
    mimi.enliven(model.codec_model, checkpoint.seed)
    # A frame of zeros alone would end it: no first code is the end's.
    model.lm_head.weight[0] = 0
    draw = torch.Generator().manual_seed(checkpoint.seed)
    head = model.depth_decoder.codebooks_head.weight
    head.copy_(torch.randn(head.shape, generator=draw) * 0.3)


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(options.get(name, default))
    except ValueError:
        raise ExportError(f"option {name}={options[name]} is no number") from None
