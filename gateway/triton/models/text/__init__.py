"""What a voice is told to say, as the numbers its graph takes: `load_text`.

Settings are the part "text" of a model's front.json. What language it is, how its numbers are read and
how its words sound, is data beside it: a rules file, a lexicon, a net for words that the lexicon lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text.characters import characters
from gateway.triton.models.text.espeak import espeak
from gateway.triton.models.text.expand import Expander
from gateway.triton.models.text.ids import Ids
from gateway.triton.models.text.letters import LettersToSounds
from gateway.triton.models.text.lexicon import Lexicon
from gateway.triton.models.text.phonemes import phonemes
from gateway.triton.models.text.words import Words


class TextFolder(Protocol):
    """A model's version folder."""

    @property
    def front(self) -> Mapping[str, Any]: ...
    def path(self, name: str) -> Path: ...
    def read_json(self, name: str) -> Any: ...


def load_text(folder: TextFolder, key: str = "text") -> Callable[[str], NDArray[np.int64]]:
    """The function from a text to int64 [n], by the settings `folder.front[key]`. Safe in any thread.

    It raises NothingToSay with a sentence where nothing of a text can be said.
    Raises: ValueError where the settings or their files cannot be; EspeakFailed where "phonemiser" is
    "espeak" and that extra is not installed.
    """
    settings = folder.front[key]
    ids = Ids(folder.read_json(settings["symbols"]), settings)
    rules = settings.get("rules")
    expand: Callable[[str], str] = Expander(folder.read_json(rules)) if rules else str
    kind = settings["kind"]
    if kind == "characters":
        return characters(settings, ids, expand)
    if kind != "phonemes":
        raise ValueError(f"front.json: text kind {kind!r} is not known; it is characters or phonemes")
    if settings.get("phonemiser", "lexicon") == "espeak":
        return espeak(settings, ids)
    spaced = bool(settings.get("spaced", False))
    guess = LettersToSounds(folder.path(settings["letters"])) if settings.get("letters") else None
    words = Words(Lexicon(folder.path(settings["lexicon"]), spaced), settings, guess)
    return phonemes(settings, ids, expand, words)
