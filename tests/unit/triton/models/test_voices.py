from __future__ import annotations

import pytest

from gateway.triton.models.voices import Refused, Voice, choose_voice

VOICES = (
    Voice("ann", "en-US", "a", 1.0),
    Voice("bob", "en-GB", "b", 1.0),
    Voice("eva", "de-DE", "e", 1.0),
)


@pytest.mark.parametrize(
    ("name", "language", "found"),
    [
        ("", "", "ann"),
        ("BOB", "", "bob"),
        ("", "en-GB", "bob"),
        ("", "en-AU", "ann"),
        ("", "de", "eva"),
        ("", "DE_de", "eva"),
        ("ann", "en-GB", "ann"),
    ],
)
def test_finds(name: str, language: str, found: str) -> None:
    assert choose_voice(VOICES, name, language).name == found


@pytest.mark.parametrize(
    ("name", "language", "message"),
    [
        ("zoe", "", "Voice zoe for language any not found. Available: ann (en-US), bob (en-GB), eva (de-DE)"),
        ("eva", "en-US", "Voice eva for language en-US not found."),
        ("", "fr-FR", "Voice default for language fr-FR not found."),
    ],
)
def test_refuses(name: str, language: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        choose_voice(VOICES, name, language)
    assert str(refused.value).startswith(message)
