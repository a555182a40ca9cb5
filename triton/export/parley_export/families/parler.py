"""Parler-TTS: voices are described in words."""

from __future__ import annotations

from collections.abc import Mapping

from parley_export.checkpoint import Checkpoint
from parley_export.exported import Exported
from parley_export.foreign import foreign

DESCRIPTION = "{name}'s voice is clear and close, at a moderate pace, with no background noise."
VOICES = (("jon", "en-US"), ("lea", "en-US"))


def export(checkpoint: Checkpoint, options: Mapping[str, str]) -> Exported:
    """options: voices, language, and those of `generated`. Raises: ExportError."""
    return foreign(
        checkpoint,
        options,
        rate=44_100,
        voices=VOICES,
        license="Apache-2.0",
        publisher="parler-tts",
        needs=("config.json", "tokenizer_config.json"),
        front={"descriptions": described(options)},
    )


def described(options: Mapping[str, str]) -> dict[str, str]:
    """Of each voice. The published checkpoints know their speakers by name (Jon, Lea, …)."""
    named = options.get("voices", "") or ",".join(name for name, _ in VOICES)
    names = [name.strip() for name in named.split(",") if name.strip()]
    return {name: DESCRIPTION.format(name=name.capitalize()) for name in names}
