"""What a model says it speaks, against what is asked for."""

from __future__ import annotations

import pytest

from gateway.triton.routing.languages import Fit, family_of, language_fit, speaks, voice_of, voices_of
from tests.unit.triton.routing.parts import model


@pytest.mark.parametrize(
    ("known", "wanted", "fit"),
    [
        (("en-US",), "en-US", Fit.EXACT),
        (("en-US",), "en_us", Fit.EXACT),
        (("en_US",), "EN-us", Fit.EXACT),
        (("en-US",), "", Fit.EXACT),
        ((), "", Fit.EXACT),
        (("en",), "en-GB", Fit.SAME),
        (("en-GB",), "en", Fit.SAME),
        (("en-GB",), "en-US", Fit.OTHER_REGION),
        (("zh-Hant-TW",), "zh-Hans", Fit.OTHER_REGION),
        ((), "de", Fit.UNNAMED),
        (("en-US", "fr"), "de", Fit.NONE),
        (("eng",), "en", Fit.NONE),
        (("en-GB", "en", "en-US"), "en-US", Fit.EXACT),
        (("de", "en-GB", "en"), "en-US", Fit.SAME),
    ],
)
def test_how_well_a_model_fits_a_language(known: tuple[str, ...], wanted: str, fit: Fit) -> None:
    assert language_fit(model("tts_x", languages=known), wanted) is fit


def test_another_region_is_spoken_only_where_that_will_do() -> None:
    british = model("tts_x", languages=("en-GB",))
    assert not speaks(british, "en-US")
    assert speaks(british, "en-US", other_regions=True)
    assert not speaks(british, "de", other_regions=True)
    assert speaks(model("tts_any", languages=()), "de")


def test_voices_of_a_language() -> None:
    espeak = model(
        "tts_espeak",
        languages=("en-US", "de-DE", "de-AT"),
        voices=("en", "de", "at"),
        voice_languages=("en-US", "de-DE", "de-AT"),
    )
    assert voices_of(espeak, "") == ["en", "de", "at"]
    assert voices_of(espeak, "de") == ["de", "at"]
    assert voices_of(espeak, "de-AT", other_regions=True) == ["at"]
    assert voices_of(espeak, "de-CH") == []
    assert voices_of(espeak, "de-CH", other_regions=True) == ["de", "at"]
    assert voices_of(espeak, "fr", other_regions=True) == []
    assert voices_of(model("tts_x", voices=("a", "b"), voice_languages=("de",)), "en-US") == ["a", "b"]


@pytest.mark.parametrize(
    ("voice", "found"),
    [
        ("", ""),
        ("flite", ""),
        ("tts_flite", ""),
        ("awb", "awb"),
        ("flite.awb", "awb"),
        ("tts_flite.slt", "slt"),
        ("espeak.slt", None),
        ("bob", None),
    ],
)
def test_voice_names(voice: str, found: str | None) -> None:
    flite = model("tts_flite", voices=("slt", "awb"))
    assert voice_of(flite, voice, "en-US") == found
    assert voice_of(flite, voice, "") == found
    assert voice_of(flite, voice, "de-DE") is None
    assert voice_of(flite, voice, "en-GB") is None
    assert voice_of(flite, voice, "en-GB", other_regions=True) == found


def test_family_is_what_the_model_says_or_how_it_is_called() -> None:
    assert family_of(model("tts_x", family="")) == "tts"
    assert family_of(model("tts_x", family="asr")) == "asr"
