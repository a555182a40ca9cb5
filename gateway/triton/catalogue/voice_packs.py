"""Voice packs: voices that are described beside the models, for any model of a family that can speak them.

A folder of packs holds one folder for each, with a `voice.yaml`:

    name: morgan                # as clients ask for it
    language: en-GB             # BCP-47
    licence: CC-BY-4.0
    tags: [calm, female]        # optional
    family: tts                 # optional; tts when left out
    engine: flite               # optional: only for models of this engine
    speaker: awb                # what the model itself calls the voice, sent as VOICE
    speakers: {flite: awb, espeak-ng: en-gb-scotland}   # the same for several engines
    reference: morgan.wav       # speech to imitate, sent as REFERENCE_AUDIO to models tagged zero-shot

One of `speaker`, `speakers` and `reference` is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gateway.audio.files import BadAudio, decode_file
from gateway.audio.pcm import rms_dbfs
from gateway.audio.resample import resample
from gateway.triton.catalogue.parameters import is_language
from gateway.triton.codec import Array, text
from gateway.triton.model_info import ModelInfo, family_of

FILE = "voice.yaml"
ZERO_SHOT = "zero-shot"
"""Tag of a model that speaks as the REFERENCE_AUDIO it is given."""
RATE = 16_000
"""Hz of REFERENCE_AUDIO."""
SECONDS = (1.0, 30.0)
"""Of a reference."""
_QUIET_DBFS = -50.0
_MAX_YAML_BYTES = 64 * 1024
_MAX_AUDIO_BYTES = 32 << 20
_MAX_PACKS = 1_000
_KEYS = (
    "name",
    "language",
    "licence",
    "license",
    "tags",
    "family",
    "engine",
    "speaker",
    "speakers",
    "reference",
)


class BadPack(ValueError):
    """A pack that cannot be used; `str()` is a sentence that begins with the file."""


@dataclass(frozen=True, slots=True, eq=False)
class VoicePack:
    """One voice."""

    name: str
    language: str
    """BCP-47."""
    licence: str
    tags: tuple[str, ...]
    family: str
    engine: str
    """"" for every engine."""
    speakers: Mapping[str, str]
    """The model's own name for the voice, by engine; under "" for any."""
    reference: NDArray[np.float32] | None
    """[n] at 16 kHz, full scale 1."""
    path: Path
    """Its folder."""

    def inputs(self, model: ModelInfo) -> dict[str, Array] | None:
        """What makes `model` speak with this voice; None when it cannot."""
        if self.family != family_of(model) or (self.engine and self.engine != model.engine):
            return None
        if model.languages and not any(_primary(self.language) == _primary(tag) for tag in model.languages):
            return None
        tensors = self._voice(model)
        if tensors is not None and "LANGUAGE" in model.inputs:
            tensors["LANGUAGE"] = text(self.language)
        return tensors

    def _voice(self, model: ModelInfo) -> dict[str, Array] | None:
        speaker = self.speakers.get(model.engine) or self.speakers.get("")
        own = next((voice for voice in model.voices if speaker and voice.lower() == speaker.lower()), None)
        if own is not None and "VOICE" in model.inputs:
            return {"VOICE": text(own)}
        if self.reference is not None and ZERO_SHOT in model.tags and "REFERENCE_AUDIO" in model.inputs:
            return {"REFERENCE_AUDIO": self.reference}
        return None


class Shelf:
    """Folders of packs, read again only where something changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._known: dict[Path, tuple[tuple[int, ...], VoicePack]] = {}

    def read(self) -> tuple[list[VoicePack], dict[str, str]]:
        """The packs by name, and what is wrong with the others: path and sentence. Blocks."""
        packs: dict[str, VoicePack] = {}
        problems: dict[str, str] = {}
        for path in self._paths(problems):
            try:
                pack = self._pack(path)
                other = packs.setdefault(pack.name.lower(), pack)
                if other is not pack:
                    raise BadPack(f"{path / FILE}: there is a voice {pack.name} already, in {other.path}")
            except BadPack as bad:
                problems[str(path)] = str(bad)
        self._known = {pack.path: self._known[pack.path] for pack in packs.values()}
        return [packs[name] for name in sorted(packs)], problems

    def _paths(self, problems: dict[str, str]) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            try:
                its = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:1] not in "._")
            except OSError as error:
                problems[str(folder)] = f"voice packs in {folder} cannot be read: {error.strerror}"
                continue
            found += its
        return found[:_MAX_PACKS]

    def _pack(self, path: Path) -> VoicePack:
        try:
            stamp = tuple(
                number
                for file in sorted(path.iterdir())
                for number in (file.stat().st_mtime_ns, file.stat().st_size)
            )
        except OSError as error:
            raise BadPack(f"{path}: it cannot be read: {error.strerror}") from None
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            self._known[path] = (stamp, read_pack(path))
        return self._known[path][1]


def read_pack(path: Path) -> VoicePack:
    """The pack in a folder. Blocks. Raises: BadPack."""
    file = path / FILE
    source = _read(file, _MAX_YAML_BYTES).decode("utf-8", "replace")
    try:
        said = yaml.safe_load(source)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise BadPack(f"{file}:{line}: it is no YAML: {error.problem or 'unreadable'}") from None
    except yaml.YAMLError:
        raise BadPack(f"{file}: it is no YAML text") from None
    if not isinstance(said, dict):
        raise BadPack(f"{file}: it must hold keys and values: name, language, licence, speaker or reference")

    def bad(key: str, why: str) -> BadPack:
        at = next((n for n, one in enumerate(source.splitlines(), 1) if one.startswith(f"{key}:")), 0)
        return BadPack(f"{file}{f':{at}' if at else ''}: {key} {why}")

    for key in said:
        if key not in _KEYS:
            raise bad(str(key), f"is not known; there are {', '.join(_KEYS)}")

    def word(key: str, otherwise: str | None = None) -> str:
        value = said.get(key, otherwise)
        if value is None:
            raise bad(key, "is missing")
        if not isinstance(value, str | int | float) or isinstance(value, bool) or not str(value).strip():
            raise bad(key, "must be a text")
        return str(value).strip()

    language = word("language")
    if not is_language(language):
        raise bad("language", f'"{language}" is no BCP-47 language, such as en-GB')
    licence = word("licence" if "licence" in said or "license" not in said else "license")
    tags = said.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise bad("tags", "must be a list of words: [calm, female]")
    speakers = said.get("speakers") or {}
    if not isinstance(speakers, dict) or not all(isinstance(v, str | int) for v in speakers.values()):
        raise bad("speakers", "must name a speaker for each engine: {flite: awb}")
    speakers = {str(engine): str(speaker) for engine, speaker in speakers.items()}
    if "speaker" in said:
        speakers[""] = word("speaker")
    reference = _reference(path, word("reference"), bad) if "reference" in said else None
    if not speakers and reference is None:
        raise BadPack(f"{file}: one of speaker, speakers and reference is needed")
    return VoicePack(
        name=word("name"),
        language=language,
        licence=licence,
        tags=tuple(tags),
        family=word("family", "tts"),
        engine=word("engine") if "engine" in said else "",
        speakers=speakers,
        reference=reference,
        path=path,
    )


def _reference(path: Path, name: str, bad: Any) -> NDArray[np.float32]:
    file = path / name
    if not file.resolve().is_relative_to(path.resolve()):
        raise bad("reference", f"{name} lies outside of the pack")
    try:
        samples, rate = decode_file(_read(file, _MAX_AUDIO_BYTES), max_s=SECONDS[1] + 1)
    except BadAudio as error:
        raise bad("reference", f"{name} cannot be used: {error}") from None
    seconds = samples.size / rate if rate else 0.0
    if not SECONDS[0] <= seconds <= SECONDS[1]:
        raise bad(
            "reference", f"{name} is {seconds:.1f} s long, and must be {SECONDS[0]:g} to {SECONDS[1]:g} s"
        )
    audio = resample(samples, rate, RATE).astype(np.float32) / np.float32(32768)
    level = rms_dbfs(audio)
    if level < _QUIET_DBFS:
        raise bad("reference", f"{name} is all but silent ({level:.0f} dBFS)")
    audio.flags.writeable = False
    return audio


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(most + 1)
    except FileNotFoundError:
        raise BadPack(f"{file}: it is missing") from None
    except OSError as error:
        raise BadPack(f"{file}: it cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise BadPack(f"{file}: it is larger than {most >> 10} KiB")
    return data


def _primary(tag: str) -> str:
    return tag.replace("_", "-").partition("-")[0].lower()
