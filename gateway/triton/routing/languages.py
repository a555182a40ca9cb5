"""What a model says it can speak: languages, voices, family. The one reading of it for all services."""

from __future__ import annotations

from enum import IntEnum

from gateway.triton.model_info import ModelInfo


class Fit(IntEnum):
    """How well a model fits a language that is asked for; smaller is better."""

    EXACT = 0
    """It names the very tag, or no language was asked for."""
    SAME = 1
    """The same language, and one of the two names no region: en and en-US."""
    OTHER_REGION = 2
    """The same language of another region: en-GB and en-US."""
    UNNAMED = 3
    """It names no languages: it may speak any."""
    NONE = 4
    """It speaks others."""


def language_fit(model: ModelInfo, language: str) -> Fit:
    """language: BCP-47, "" is served by all; "_" counts as "-", upper case as lower."""
    if not language:
        return Fit.EXACT
    return min((_fit(known, language) for known in model.languages), default=Fit.UNNAMED)


def speaks(model: ModelInfo, language: str, *, other_regions: bool = False) -> bool:
    """Whether a model serves a BCP-47 tag; "" is served by all, "en" by every kind of English."""
    fit = language_fit(model, language)
    return fit is not Fit.NONE and (other_regions or fit is not Fit.OTHER_REGION)


def voices_of(model: ModelInfo, language: str, *, other_regions: bool = False) -> list[str]:
    """The model's voices for a language, its default first; "" for all of them.

    other_regions: voices of another region count where the model has none of the wanted one.
    """
    if not language or len(model.voice_languages) != len(model.voices):
        return list(model.voices)
    fits = [_fit(known, language) for known in model.voice_languages]
    worst = Fit.SAME
    if other_regions and min(fits, default=worst) > worst:
        worst = Fit.OTHER_REGION
    return [voice for voice, fit in zip(model.voices, fits, strict=True) if fit <= worst]


def voice_of(model: ModelInfo, voice: str, language: str, *, other_regions: bool = False) -> str | None:
    """The model's own name for `voice`, "" for its default, None when it has no such voice in that language.

    Voices are named as Riva does, "flite.slt", or without what comes before the dot.
    """
    if not speaks(model, language, other_regions=other_regions):
        return None
    if not voice or voice in (model.name, voice_base(model)):
        return ""
    for base in (model.name, voice_base(model)):
        voice = voice.removeprefix(f"{base}.")
    return voice if voice in voices_of(model, language, other_regions=other_regions) else None


def voice_base(model: ModelInfo) -> str:
    """What comes before the dot in a full voice name."""
    return model.name.removeprefix("tts_")


def family_of(model: ModelInfo) -> str:
    """asr, tts, … by its config, else by its name."""
    return model.family or model.name.partition("_")[0]


def same_tag(one: str, other: str) -> bool:
    """Whether two BCP-47 tags name the same language and region."""
    return _plain(one) == _plain(other)


def base_language(tag: str) -> str:
    """ "de" of "de-CH"."""
    return _plain(tag).partition("-")[0]


def _fit(known: str, wanted: str) -> Fit:
    known, wanted = _plain(known), _plain(wanted)
    if known == wanted:
        return Fit.EXACT
    base = known.partition("-")[0]
    if base != wanted.partition("-")[0]:
        return Fit.NONE
    return Fit.SAME if base in (known, wanted) else Fit.OTHER_REGION


def _plain(tag: str) -> str:
    return tag.replace("_", "-").lower()
