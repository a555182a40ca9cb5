"""XTTS-v2: Coqui's voice, 17 languages, for non-commercial use."""

from __future__ import annotations

from collections.abc import Mapping

from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported
from parley_export.foreign import foreign

VOICES = (("Ana Florence", "en-US"), ("Claribel Dervla", "en-US"))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: voices, language, and those of `generated`. Raises: ExportError."""
    return foreign(
        checkpoint,
        options,
        rate=24_000,
        voices=VOICES,
        license="LicenseRef-CPML-1.0",
        publisher="coqui",
        needs=("config.json", "model.pth", "vocab.json", "speakers_xtts.pth"),
    )
