"""Models that read letters: MMS and other VITS voices, SpeechT5."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text.ids import Ids, plain


def characters(
    settings: Mapping[str, Any], ids: Ids, expand: Callable[[str], str]
) -> Callable[[str], NDArray[np.int64]]:
    """settings: `lower` (bool): letters are put in lower case unless the vocabulary has the capital;
    `space`: the symbol of a space; `leading_space` (bool): each text begins with one; `replace`: character
    to character, before anything else is looked up. A letter that the vocabulary lacks is said without its accents."""
    lower, space = bool(settings.get("lower", True)), str(settings.get("space", " "))
    leading = bool(settings.get("leading_space", False))
    replace = str.maketrans(dict(settings.get("replace", {})))

    def symbols(text: str) -> Iterator[str]:
        words = expand(text).translate(replace).split()
        for index, word in enumerate(words):
            if index or leading:
                yield space
            for character in word:
                for letter in character if not lower or character in ids else character.lower():
                    yield from letter if letter in ids else plain(letter)

    return lambda text: ids(_trimmed(symbols(text), ids, space, leading), text)


def _trimmed(symbols: Iterator[str], ids: Ids, space: str, leading: bool) -> Iterator[str]:
    """Without the spaces around words of which nothing is left."""
    waiting = leading
    started = False
    for symbol in symbols:
        if symbol == space:
            waiting = started or leading
            continue
        if waiting and symbol in ids:
            yield space
            waiting = False
        started = started or symbol in ids
        yield symbol
