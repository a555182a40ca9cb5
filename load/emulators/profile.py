"""What the emulated parts do, and how a profile is read, changed and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from load.emulators.distributions import BadProfile, Distribution, distribution
from load.emulators.scripts import REPLIES, TRANSCRIPTS

PROFILES = Path(__file__).with_name("profiles")
"""Profiles that come with Parley; `--profile NAME` finds them without path and ending."""
NONE = Distribution()
"""Takes no time."""


@dataclass(frozen=True, slots=True)
class AsrProfile:
    """The recogniser."""

    final_ms: Distribution = NONE
    """From the end of the stream, or from the end of an utterance heard in it, to its final."""
    partial_ms: float = 160.0
    """A partial after each so much speech."""
    settle_ms: float = 64.0
    """Quiet audio after which the partial is what the final will be."""
    endpoint_ms: float = 800.0
    """Quiet audio that ends an utterance in an open stream; 0: only the client ends it."""
    ms_per_word: float = 330.0
    """Speech per revealed word, where no clip says better."""
    stability: float = 0.9
    """Of the words of a partial that will not change."""
    transcripts: tuple[str, ...] = TRANSCRIPTS
    """Said in turn, one an utterance."""
    clips: str = ""
    """Manifest of recordings: an utterance that holds one of them is revealed as that one goes."""
    languages: tuple[str, ...] = ("en-US",)
    """BCP-47; others are refused."""
    model: str = "asr_emulated"


@dataclass(frozen=True, slots=True)
class LlmProfile:
    """The language model."""

    first_token_ms: Distribution = NONE
    """From the request to the first token."""
    first_sentence_ms: Distribution = NONE
    """From the request to the last token of the first sentence; less than the first token: as tokens_per_s has it."""
    tokens_per_s: float = 0.0
    """After that; 0: all at once."""
    replies: tuple[str, ...] = REPLIES
    """Said in turn."""
    model: str = "llm_emulated"
    """Listed; requests may name any."""


@dataclass(frozen=True, slots=True)
class TtsProfile:
    """The voice."""

    first_chunk_ms: Distribution = NONE
    """From the request to the first chunk."""
    rtf: float = 0.1
    """Seconds of work per second of audio after the first chunk; 0: all at once."""
    first_audio_ms: float = 40.0
    """Length of the first chunk."""
    chunk_ms: float = 80.0
    """Length of the others."""
    cancel_ms: Distribution = NONE
    """From a CANCEL to the moment the model heeds it; chunks made meanwhile are counted."""
    sample_rate: int = 22_050
    ms_per_char: float = 60.0
    """Audio per character of text."""
    voices: tuple[str, ...] = ("emulated:en-US", "emulated-gb:en-GB")
    """NAME:LANGUAGE; the first is the default."""
    model: str = "tts_emulated"


@dataclass(frozen=True, slots=True)
class Profile:
    """All three."""

    asr: AsrProfile = field(default_factory=AsrProfile)
    llm: LlmProfile = field(default_factory=LlmProfile)
    tts: TtsProfile = field(default_factory=TtsProfile)

    def changed(self, raw: Mapping[str, Any], folder: Path = Path()) -> Profile:
        """This profile with `raw` ({part: {field: value}}) over it; relative paths start at `folder`.

        Raises: BadProfile.
        """
        parts = {}
        for part, fields in raw.items():
            if part not in ("asr", "llm", "tts"):
                raise BadProfile(f"a profile has asr, llm and tts, and not {part}")
            if not isinstance(fields, Mapping):
                raise BadProfile(f"{part} must be a mapping of its fields")
            parts[part] = _changed(getattr(self, part), part, fields, folder)
        made = dataclasses.replace(self, **parts)
        _check(made)
        return made


def read_profile(name: str) -> Profile:
    """A profile of ours by its name, or a YAML or JSON file by its path. Raises: BadProfile."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise BadProfile(f"profile {name} cannot be read ({error.strerror}); ours are {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadProfile(f"profile {name} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw or {}, Mapping):
        raise BadProfile(f"profile {name} must be a mapping of asr, llm and tts")
    return Profile().changed(raw or {}, path.parent)


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """["llm.first_token_ms=126"] as a partial profile. Raises: BadProfile."""
    made: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        part, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise BadProfile(f"--set {pair}: write PART.FIELD=VALUE, such as llm.first_token_ms=126")
        try:
            made.setdefault(part, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadProfile(f"--set {pair}: the value cannot be read") from None
    return made


_Part = TypeVar("_Part", AsrProfile, LlmProfile, TtsProfile)


def _changed(old: _Part, part: str, raw: Mapping[str, Any], folder: Path) -> _Part:
    known = {f.name for f in dataclasses.fields(old)}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        where = f"{part}.{name}"
        if name not in known:
            raise BadProfile(f"{where} is no field of a profile; {part} has {', '.join(sorted(known))}")
        values[name] = _value(getattr(old, name), value, where, folder)
    return dataclasses.replace(old, **values)


def _value(old: object, raw: object, where: str, folder: Path) -> object:
    if isinstance(old, Distribution):
        return distribution(raw, where, folder)
    if isinstance(old, tuple):
        if not (isinstance(raw, (list, tuple)) and raw and all(isinstance(v, str) for v in raw)):
            raise BadProfile(f"{where} must be a list of texts with at least one")
        return tuple(raw)
    if isinstance(old, str):
        if not isinstance(raw, str):
            raise BadProfile(f"{where} must be a text")
        return str(folder / raw) if where == "asr.clips" and raw else raw
    number = distribution(raw, where, folder)
    if number.values or number.lognormal:
        raise BadProfile(f"{where} must be a number")
    return int(number.constant) if isinstance(old, int) else number.constant


def _check(profile: Profile) -> None:
    asr, tts = profile.asr, profile.tts
    for where, value, low, high in (
        ("asr.partial_ms", asr.partial_ms, 20, 10_000),
        ("asr.ms_per_word", asr.ms_per_word, 20, 10_000),
        ("asr.stability", asr.stability, 0, 1),
        ("tts.first_audio_ms", tts.first_audio_ms, 10, 1_000),
        ("tts.chunk_ms", tts.chunk_ms, 20, 1_000),
        ("tts.ms_per_char", tts.ms_per_char, 1, 1_000),
        ("tts.sample_rate", tts.sample_rate, 8_000, 48_000),
    ):
        if not low <= value <= high:
            raise BadProfile(f"{where} is {value:g}: between {low:g} and {high:g} is possible")
    for voice in tts.voices:
        name, colon, language = voice.partition(":")
        if not (name and colon and language):
            raise BadProfile(f"tts.voices: {voice!r} must be NAME:LANGUAGE, such as ada:en-US")
    for where, texts in (("asr.transcripts", asr.transcripts), ("llm.replies", profile.llm.replies)):
        if not all(text.strip() for text in texts):
            raise BadProfile(f"{where} must not hold an empty text")
