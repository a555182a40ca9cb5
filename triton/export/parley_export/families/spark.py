"""Spark-TTS: Chinese and English, for non-commercial use."""

from __future__ import annotations

from collections.abc import Mapping

from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported
from parley_export.foreign import foreign

VOICES = (("female", "en-US"), ("male", "en-US"))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: voices, language, and those of `generated`. Raises: ExportError."""
    return foreign(
        checkpoint,
        options,
        rate=16_000,
        voices=VOICES,
        license="CC-BY-NC-SA-4.0",
        publisher="SparkAudio",
        needs=("config.yaml", "LLM/config.json", "BiCodec/model.safetensors"),
    )
