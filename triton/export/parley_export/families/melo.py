"""MeloTTS: one language a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported
from parley_export.foreign import foreign

VOICES = (("EN-US", "en-US"), ("EN-BR", "en-GB"), ("EN-AU", "en-AU"))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: voices, language, and those of `generated`. Raises: ExportError."""
    return foreign(
        checkpoint,
        options,
        rate=44_100,
        voices=VOICES,
        license="MIT",
        publisher="myshell-ai",
        needs=("config.json", "checkpoint.pth"),
        front={"melo_language": options.get("melo_language", "EN")},
        memory_mb=1500,
    )
