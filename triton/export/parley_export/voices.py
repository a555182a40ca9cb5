"""The voices of an exported model, and a folder in memory that its text's settings are tried on."""

from __future__ import annotations

import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text import load_text
from parley_export.checkpoint import Checkpoint, ExportError
from parley_export.vocoders import gain_of

SAID = ("hello there, how are you today?", "the quick brown fox jumps over the lazy dog")
"""Of random weights, and of any voice that reads English."""


@dataclass(frozen=True)
class VoiceText:
    front: dict[str, Any]
    """The part "text" of front.json."""
    files: dict[str, bytes]
    """What it names, in the version folder."""
    size: int
    """Ids that the model must know."""
    ids: Callable[[str], NDArray[np.int64]]
    """As the front will make them."""


def voice_text(settings: Mapping[str, Any], files: Mapping[str, bytes]) -> VoiceText:
    """Settings and files as a front will load them. Raises: ExportError."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            ids = load_text(_Folder(Path(folder), {"text": dict(settings)}))
        except (ValueError, KeyError, OSError) as error:
            raise ExportError(f"the text's settings do not load: {error}") from None
    symbols = json.loads(files[settings["symbols"]])
    numbers = [settings.get(key, ()) for key in ("begin", "after", "end")] + [
        one if isinstance(one, list) else [one] for one in symbols.values()
    ]
    return VoiceText(dict(settings), dict(files), 1 + max(itertools.chain(*numbers)), ids)


def voice_table(
    speakers: int, names: str, languages: str, *, by_language: bool = False, default: str = "speaker"
) -> list[dict[str, Any]]:
    """front.json's voices, without their gains: one a speaker, or one a speaker and language.

    names, languages: with commas between them; languages: of all voices one, of each voice its own, or (where
    the model is told the language) in the order of its ids. Raises: ExportError.
    """
    called = [name.strip() for name in names.split(",") if name.strip()]
    called = called or [f"{default}-{number + 1}" if speakers > 1 else default for number in range(speakers)]
    spoken = [tag.strip() for tag in languages.split(",") if tag.strip()]
    if len(called) != speakers:
        raise ExportError(f"voices names {len(called)} voices, the model has {speakers}")
    if by_language:
        pairs = itertools.product(enumerate(called), enumerate(spoken))
        return [
            {
                "name": name if not at else f"{name}-{tag}",
                "language": tag,
                "speaker": number,
                "language_id": at,
            }
            for (number, name), (at, tag) in pairs
        ]
    if len(spoken) not in (1, speakers):
        raise ExportError(
            f"languages names {len(spoken)} languages; give one, or one for each of {speakers} voices"
        )
    return [
        {"name": name, "language": spoken[number % len(spoken)], "speaker": number}
        for number, name in enumerate(called)
    ]


def parameters_of(voices: list[dict[str, Any]], rate: int) -> dict[str, str]:
    """Of config.pbtxt."""
    return {
        "languages": ",".join(dict.fromkeys(voice["language"] for voice in voices)),
        "voices": ",".join(voice["name"] for voice in voices),
        "voice_languages": ",".join(voice["language"] for voice in voices),
        "sample_rate": str(rate),
        "tags": "cpu,streaming" + (",multilingual" if len({v["language"] for v in voices}) > 1 else ""),
    }


def embeddings_of(file: str, size: int, *, seed: int | None, count: int = 2) -> NDArray[np.float32]:
    """Speaker embeddings [n, size] from an .npy; without one and with a seed, random ones. Raises: ExportError."""
    if not file:
        if seed is None:
            raise ExportError(
                "this model takes a speaker embedding: give --option embeddings=FILE.npy, [n, size]"
            )
        return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} holds no speaker embeddings: {error}") from None
    found = np.atleast_2d(found).astype(np.float32)
    if found.ndim != 2 or found.shape[1] != size or not np.isfinite(found).all():
        raise ExportError(
            f"{file} has the shape {found.shape}; speaker embeddings are [n, {size}], and finite"
        )
    return found


def given_embeddings(checkpoint: Checkpoint, options: Mapping[str, str], size: int) -> NDArray[np.float32]:
    """Of the option embeddings=FILE.npy; of random weights random ones where it is not given. Raises: ExportError."""
    seed = checkpoint.seed if checkpoint.is_random else None
    return embeddings_of(options.get("embeddings", ""), size, seed=seed)


def measured(
    voices: list[dict[str, Any]],
    text: VoiceText,
    speak: Callable[[NDArray[np.int64], Mapping[str, Any]], NDArray[np.float32]],
    rate: int,
) -> dict[str, NDArray[Any]]:
    """front_reference: the first of SAID by every voice, which gets its gain from that, and the other by the last.

    speak: ids [n] by a voice -> what torch makes of them, [n]. Raises: ExportError for silence.
    """
    reference: dict[str, NDArray[Any]] = {}
    for number, said in enumerate(SAID):
        for voice in voices if not number else voices[-1:]:
            ids = text.ids(said)
            audio = speak(ids, voice)
            voice["gain"] = gain_of(audio, rate)
            add_reference(reference, ids, audio, voice)
    add_texts(reference, text.ids, SAID)
    return reference


def add_reference(
    reference: dict[str, NDArray[Any]],
    ids: NDArray[np.int64],
    audio: NDArray[np.float32],
    voice: Mapping[str, Any],
) -> None:
    """One more utterance, spoken with the seed 0."""
    number = sum(name.startswith("audio_") for name in reference)
    reference |= {
        f"ids_{number}": ids, f"audio_{number}": audio,
        f"voice_{number}": np.array(voice["name"]), f"seed_{number}": np.array(0),
    }  # fmt: skip


def add_texts(
    reference: dict[str, NDArray[Any]], ids_of: Callable[[str], NDArray[np.int64]], sentences: Iterable[str]
) -> None:
    """Puts the sentences beside the ids that a front makes of them, so that a session can be held against what was
    recorded. A model has one seed while it is proved: utterances of another stay ids."""
    for sentence in sentences:
        ids = ids_of(sentence)
        for name in [name for name in reference if name.startswith("ids_")]:
            number = name.removeprefix("ids_")
            same_seed = int(reference[f"seed_{number}"]) == int(reference["seed_0"])
            if same_seed and np.array_equal(reference[name], ids):
                reference[f"text_{number}"] = np.array(sentence)


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


@dataclass(frozen=True)
class _Folder:
    folder: Path
    front: Mapping[str, Any]

    def path(self, name: str) -> Path:
        return self.folder / name

    def read_json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text("utf-8"))
