"""CosyVoice2: voices are recordings; those of a checkpoint are in its spk2info.pt."""

from __future__ import annotations

from collections.abc import Mapping

from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported
from parley_export.foreign import foreign

VOICES = (("default", "en-US"), ("default-zh", "zh-CN"))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: voices, language, and those of `generated`. Raises: ExportError."""
    return foreign(
        checkpoint,
        options,
        rate=24_000,
        voices=VOICES,
        license="Apache-2.0",
        publisher="FunAudioLLM",
        needs=("cosyvoice2.yaml", "llm.pt", "flow.pt", "hift.pt"),
    )
