"""Families whose models stay programs: their code and settings become a model folder, their weights stay whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.exported import Exported

FAMILIES = Path(__file__).parents[2] / "families"
WEIGHTS = "checkpoint"
"""Folder of the weights, in the version folder."""


def generated(
    checkpoint: Checkpoint,
    options: Mapping[str, str],
    *,
    rate: int,
    voices: Sequence[tuple[str, str]],
    license: str,
    front: Mapping[str, Any],
    files: Mapping[str, bytes],
    memory_mb: int,
    needs_gpu: bool = False,
    license_text: str = "",
) -> Exported:
    """voices: (name, language) of each; options: accept_license=true, gain=1.0, device."""
    family = checkpoint.family
    try:
        gain = float(options.get("gain", "1"))
    except ValueError:
        raise ExportError(f"option gain={options['gain']} is no number") from None
    languages = list(dict.fromkeys(language for _, language in voices))
    told = {
        "kind": "generated",
        "generator": family,
        "voices": [{"name": name, "language": language, "gain": gain} for name, language in voices],
        "seed": None,
        **front,
    }
    parameters = {
        "languages": ",".join(languages),
        "voices": ",".join(name for name, _ in voices),
        "voice_languages": ",".join(language for _, language in voices),
        "sample_rate": str(rate),
        "tags": "streaming,own-environment",
        "needs_gpu": str(needs_gpu).lower(),
        "memory_mb": str(memory_mb),
        "accept_license": options.get("accept_license", "false"),
        "max_streams": "16",
    }
    if "device" in options:
        parameters["device"] = options["device"]
    return Exported(
        name=f"{family}_{checkpoint.label}".replace("-", "_").replace(".", "_"),
        kind="tts",
        engine=family,
        graphs=[],
        front=told,
        files={"generator.py": (FAMILIES / family / "generator.py").read_bytes(), **files},
        parameters=parameters,
        license=license,
        license_text=license_text,
    )


def weights_of(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint, as it lies in the version folder."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".git" not in path.parts]
    return {f"{WEIGHTS}/{path.relative_to(folder)}": path.read_bytes() for path in found}
