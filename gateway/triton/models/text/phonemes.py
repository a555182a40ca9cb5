"""Models that read sounds: ARPAbet (FastSpeech2), IPA as misaki (Kokoro) or as espeak (Piper) write it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text.ids import Ids, tell_unknown
from gateway.triton.models.text.lexicon import Sounds
from gateway.triton.models.text.words import Words

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*['’]?|\S|\s+")

_SILENT = "-–/_'"
"""They part words and are no news for the log."""


class _Piece(NamedTuple):
    """What stands between two spaces' worth of sounds: a word's part, or a mark."""

    sounds: Sounds
    spaced: bool
    """A space before it."""


def phonemes(
    settings: Mapping[str, Any], ids: Ids, expand: Callable[[str], str], words: Words
) -> Callable[[str], NDArray[np.int64]]:
    """settings: `space`: the symbol between words ("" for none); `marks`: punctuation to the symbol said for
    it ("" for none); `vowels`: the symbols that a vowel begins with; `article`: the word that is a letter's name, too
    ("a"): as a capital it is the article where a longer word follows."""
    space = str(settings.get("space", ""))
    vowels = frozenset(settings.get("vowels", ()))

    def say(text: str) -> NDArray[np.int64]:
        return ids(_symbols(list(_pieces(expand(text), settings, words)), space, vowels), text)

    return say


def _pieces(text: str, settings: Mapping[str, Any], words: Words) -> Iterator[_Piece]:
    marks: Mapping[str, str] = settings.get("marks", {})
    article = str(settings.get("article", ""))
    spaced = False
    tokens = _TOKEN.findall(text)
    for index, token in enumerate(tokens):
        if token in marks:
            if marks[token]:
                yield _Piece(Sounds((marks[token],), (marks[token],)), spaced and marks[token] in "—(“")
                spaced = False
        elif token.isspace() or token in _SILENT:
            spaced = True
        elif token[0].isalpha():
            is_article = bool(article) and token == article.upper() and _is_article(tokens, index)
            said = words.find(article if is_article else token)
            if not said:
                tell_unknown(token[0])
            for sounds in said:
                yield _Piece(sounds, spaced)
                spaced = len(token) == 1 or len(said) > 1
            spaced = False
        else:
            tell_unknown(token)
            spaced = True


def _is_article(tokens: list[str], index: int) -> bool:
    """Whether a longer word follows, and no other letter stands before (U S A)."""
    before, following = tokens[max(0, index - 2) : index], tokens[index + 1 : index + 3]
    if (
        len(following) < 2
        or not following[0].isspace()
        or len(following[1]) < 2
        or not following[1][0].isalpha()
    ):
        return False
    return not before or len(before[0]) > 1 or not before[0].isalpha()


def _symbols(pieces: list[_Piece], space: str, vowels: frozenset[str]) -> Iterator[str]:
    for index, piece in enumerate(pieces):
        if piece.spaced and index and space:
            yield space
        following = pieces[index + 1].sounds.symbols if index + 1 < len(pieces) else ()
        before_vowel = any(symbol in vowels for symbol in following[:1])
        yield from piece.sounds.before_vowel if before_vowel else piece.sounds.symbols
