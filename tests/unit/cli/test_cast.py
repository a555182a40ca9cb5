"""Who speaks in the demo, by what is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli import cast
from gateway.cli.common import Fault
from gateway.triton.model_info import model_info, read_config

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def test_only_voices_of_the_demos_language_in_any_region() -> None:
    espeak = cast._speaking(model_info(read_config(REPOSITORY / "tts_espeak")))
    assert {"en-us", "en-gb"} <= set(espeak)
    assert not {"de", "hi", "fr"} & set(espeak)
    unknown = replace(model_info(read_config(REPOSITORY / "tts_flite")), voice_languages=())
    assert cast._speaking(unknown) == list(unknown.voices)


def test_the_built_in_casts() -> None:
    assert cast._cast(["slt", "rms", "awb"]).assistant == "slt"
    assert cast._cast(["en-us", "en-gb"]).user == "en-us"
    assert (cast._cast(["a", "b"]).user, cast._cast(["a", "b"]).assistant) == ("b", "a")


def test_a_chosen_model_is_the_assistant_and_another_voice_the_user() -> None:
    alone = cast._cast_around("tts_x", {"tts_x": ["one", "two", "three"]})
    assert (alone.assistant, alone.user) == ("one", "three")
    both = cast._cast_around("tts_x", {"tts_flite": ["slt", "rms"], "tts_x": ["one"]})
    assert (both.assistant, both.user) == ("one", "slt")
    with pytest.raises(Fault, match="tts_x names no voice for en"):
        cast._cast_around("tts_x", {"tts_flite": ["slt"], "tts_x": []})
