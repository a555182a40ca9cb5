"""What a VITS reads: the letters of its vocabulary.json, as transformers' VitsTokenizer takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.text_data import mms_text
from parley_export.voices import VoiceText, voice_text

VOCABULARY = (
    {"<pad>": 0, " ": 1} | {letter: 2 + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz'.,?!-;:")}
)  # fmt: skip
"""Of random weights."""
SENTENCE = "Two boats came home this morning, and the harbour was quiet again."
LANGUAGES = {
    "ara": "ar", "ben": "bn", "deu": "de", "ell": "el", "eng": "en-US", "fas": "fa", "fin": "fi", "fra": "fr",
    "guj": "gu", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "kan": "kn", "kor": "ko", "mal": "ml",
    "mar": "mr", "nld": "nl", "pan": "pa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swe": "sv",
    "swh": "sw", "tam": "ta", "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi",
}  # fmt: skip
"""ISO 639-3, as MMS names its voices, to BCP-47's shortest; others keep their three letters."""


def text_of(checkpoint: Checkpoint, config: Any, language: str) -> VoiceText:
    """Raises: ExportError where the voice reads something else, or another vocabulary."""
    vocabulary: Mapping[str, int] = VOCABULARY
    add_blank = True
    if checkpoint.folder is not None:
        vocabulary, told = _read(checkpoint.folder / "vocab.json"), _tokenizer(checkpoint)
        if told.get("phonemize", True) or told.get("is_uroman", False):
            what = "espeak's phonemes" if told.get("phonemize", True) else "uroman's letters"
            raise ExportError(
                f"{checkpoint.source} reads {what}, which are made by a program that Parley does not carry; "
                "take a VITS that reads letters (phonemize and is_uroman false in its tokenizer_config.json)"
            )
        add_blank = bool(told.get("add_blank", True))
    settings, files = mms_text(vocabulary, add_blank=add_blank, language=language)
    text = voice_text(settings, files)
    if text.size > config.vocab_size:
        raise ExportError(
            f"{checkpoint.source}: the vocabulary has {text.size} symbols, the model {config.vocab_size}"
        )
    return text


def sample(text: VoiceText, language: str) -> str:
    """For the reference: a sentence where the voice reads English, else words of its letters."""
    if language.split("-")[0] == "en":
        return SENTENCE
    symbols = json.loads(text.files[text.front["symbols"]])
    letters = sorted(one for one in symbols if len(one) == 1 and one.isalpha())
    rng = np.random.default_rng(0)
    return " ".join("".join(rng.choice(letters, 5)) for _ in range(8))


def language_of(checkpoint: Checkpoint) -> str:
    """BCP-47."""
    told = str((_tokenizer(checkpoint) if checkpoint.folder else {}).get("language") or "eng")
    return LANGUAGES.get(told, told)


def license_of(checkpoint: Checkpoint) -> str:
    """As the checkpoint's README says it; random weights are anybody's."""
    if checkpoint.folder is None:
        return "CC0-1.0"
    readme = checkpoint.folder / "README.md"
    if readme.exists():
        for line in readme.read_text("utf-8", errors="replace").splitlines()[:60]:
            if line.startswith("license:"):
                return _SPDX.get(found := line.partition(":")[2].strip().strip("'\""), found)
    return "LicenseRef-unknown"


_SPDX = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "cc-by-4.0": "CC-BY-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc0-1.0": "CC0-1.0",
}  # fmt: skip


def _tokenizer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    assert checkpoint.folder is not None
    path = checkpoint.folder / "tokenizer_config.json"
    return _read(path) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    """Raises: ExportError."""
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from None
    return told
