"""Symbols → the numbers that a model takes."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.voices import NothingToSay

MANY_SYMBOLS = 200
"""Unknown symbols that are named in the log, each once; then it is silent about further ones."""

_log = logging.getLogger(__name__)
_unknown: dict[str, int] = {}


class Ids:
    """Safe in any thread."""

    def __init__(self, symbols: Mapping[str, int | Sequence[int]], settings: Mapping[str, Any]) -> None:
        """symbols: numbers of each symbol; settings: numbers at the `begin`, `after` each symbol, at the `end`."""
        self._ids = {
            symbol: [ids] if isinstance(ids, int) else [int(i) for i in ids]
            for symbol, ids in symbols.items()
        }
        self._begin, self._after, self._end = (list(settings.get(k, ())) for k in ("begin", "after", "end"))

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._ids

    def __call__(self, symbols: Iterable[str], text: str) -> NDArray[np.int64]:
        """int64 [n]. Unknown symbols are left out, and named in the log once a process.

        Raises: NothingToSay where nothing is left but what says nothing (spaces, punctuation).
        """
        said, speaks = list(self._begin), False
        for symbol in symbols:
            ids = self._ids.get(symbol)
            if ids is None:
                tell_unknown(symbol)
                continue
            said += ids
            said += self._after
            speaks = speaks or any(character.isalnum() for character in symbol)
        if not speaks:
            raise nothing_to_say(text)
        return np.array(said + self._end, np.int64)


def nothing_to_say(text: str) -> NothingToSay:
    shown = text.strip()[:40]
    if not shown:
        return NothingToSay("TEXT is empty; send words to speak")
    return NothingToSay(
        f"nothing of the text {shown!r} can be spoken by this voice; send words in its language"
    )


def plain(text: str) -> str:
    """Without accents: café → cafe."""
    apart = unicodedata.normalize("NFD", text)
    return "".join(character for character in apart if not unicodedata.combining(character))


def tell_unknown(symbol: str) -> None:
    """Log a symbol no model symbol stands for, the first time it comes."""
    seen = _unknown.get(symbol, 0)
    if not seen and len(_unknown) >= MANY_SYMBOLS:
        return
    _unknown[symbol] = seen + 1
    if not seen:
        _log.warning(
            "%r (U+%04X) has no sound in this voice and is left out", symbol, ord(symbol[0]) if symbol else 0
        )
