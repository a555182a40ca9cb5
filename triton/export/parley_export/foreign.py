"""Families that neither transformers nor Parley has the architecture of: their checkpoint lies in the model folder
as it is, and their own library runs it. Only a checkpoint's folder can be exported, random weights cannot.

`export STAND_IN`: with the checkpoint random:stand-in the folder has everything but weights and library: a tone generator
stands where the family's does, for tests of all that is around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported
from parley_export.generated import FAMILIES, generated, weights_of

STAND_IN = "random:stand-in"
STAND_IN_CODE = FAMILIES / "stand_in.py"


def foreign(
    checkpoint: Checkpoint,
    options: Mapping[str, str],
    *,
    rate: int,
    voices: Sequence[tuple[str, str]],
    license: str,
    publisher: str,
    needs: Sequence[str],
    front: Mapping[str, Any] | None = None,
    memory_mb: int = 4000,
) -> Exported:
    """license: of what the publisher (an owner at the hub) publishes; needs: files without which the folder is no checkpoint of this family. Raises: ExportError."""
    given = options.get("voices", "")
    language = options.get("language", voices[0][1])
    named = [(name.strip(), language) for name in given.split(",") if name.strip()] or list(voices)
    front = dict(front or {})
    if checkpoint.source == STAND_IN:
        files = {}
        front["stand_in_rate"] = rate
    elif checkpoint.folder is None:
        raise ExportError(
            f"{checkpoint.family} has no random weights: give a folder or an id, or {STAND_IN} to test what is around it"
        )
    else:
        lacking = [name for name in needs if not (checkpoint.folder / name).exists()]
        if lacking:
            raise ExportError(
                f"{checkpoint.source} holds no {checkpoint.family}: there is no {', '.join(lacking)}"
            )
        files = weights_of(checkpoint.folder)
    made = generated(
        checkpoint,
        options,
        rate=rate,
        voices=named,
        license=license if checkpoint.source == STAND_IN else checkpoint.licensed(license, publisher),
        front=front,
        files=files,
        memory_mb=memory_mb,
        needs_gpu=checkpoint.source != STAND_IN,
    )
    if checkpoint.source == STAND_IN:
        made.files["generator.py"] = STAND_IN_CODE.read_bytes()
    return made
