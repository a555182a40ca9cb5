"""Which family a checkpoint is of, by what is in its folder."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

_BY_MODEL_TYPE = {
    "whisper": "whisper", "moonshine": "moonshine", "parakeet_ctc": "parakeet-ctc", "parakeet_rnnt": "parakeet-rnnt",
    "parakeet_tdt": "parakeet-rnnt", "nemotron_asr_streaming": "fastconformer", "nemotron3_5_asr": "fastconformer",
    "vits": "vits", "speecht5": "speecht5", "fastspeech2_conformer": "fastspeech2",
    "fastspeech2_conformer_with_hifigan": "fastspeech2", "mimi": "mimi", "snac": "snac", "csm": "csm",
    "parler_tts": "parler",
}  # fmt: skip
"""transformers' `model_type` of a config.json."""
_BY_FILES = (
    ("zipformer", ("encoder*.onnx", "decoder*.onnx", "joiner*.onnx", "tokens.txt")),
    ("moonshine", ("encoder_model.*", "decoder_model_merged.*", "tokenizer.*")),
    ("kokoro", ("*.onnx", "voices*")),
    ("piper", ("*.onnx", "*.onnx.json")),
    ("cosyvoice2", ("cosyvoice2.yaml",)),
)


def family_of(folder: Path) -> str:
    """ "" where it is none that is known. Blocks a moment."""
    try:
        told = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        told = {}
    if isinstance(told, dict):
        if found := _BY_MODEL_TYPE.get(str(told.get("model_type", ""))):
            return found
        if {"sampling_rate", "vq_strides", "codebook_size"} <= told.keys():
            return "snac"  # its config.json has no model_type
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    bare = [name.rpartition("/")[2] for name in names]
    for family, patterns in _BY_FILES:
        if all(any(fnmatchcase(name, pattern) for name in bare) for pattern in patterns):
            return family
    return ""


def heart_of(folder: Path, family: str) -> Path:
    """The folder in it that the export wants: a hub keeps each Piper voice some folders deep."""
    if family != "piper":
        return folder
    found = {path.parent for path in folder.rglob("*.onnx.json")}
    return found.pop() if len(found) == 1 else folder
