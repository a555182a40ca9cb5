"""A pronunciation dictionary of a hundred thousand words in a few megabytes: sorted lines, found by bisection."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Sounds(NamedTuple):
    """How a word is said. Symbols of the model's alphabet, one string a symbol."""

    symbols: tuple[str, ...]
    before_vowel: tuple[str, ...]
    """The same, unless the word is said otherwise where the next one begins with a vowel (the, a)."""


class Lexicon:
    """Safe in any thread."""

    def __init__(self, path: Path, spaced: bool) -> None:
        """path: gzip'd UTF-8 lines `word TAB sounds [TAB sounds before a vowel]`, sorted by their bytes;
        spaced: symbols are separated by spaces, else each character is one.

        Raises: ValueError where the file is not such a lexicon.
        """
        self._spaced = spaced
        self._text = gzip.decompress(path.read_bytes())
        data: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(self._text, np.uint8)
        ends = np.flatnonzero(data == ord("\n")).astype(np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), ends + 1])
        if not len(ends) or ends[-1] != len(data) - 1 or b"\t" not in self._text[: ends[0]]:
            raise ValueError(f"{path.name} is no lexicon of lines `word TAB sounds`; export the model again")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def find(self, word: str) -> Sounds | None:
        wanted = word.encode()
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._word(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._word(low) != wanted:
            return None
        said = self._text[self._starts[low] : self._starts[low + 1] - 1].decode().split("\t")[1:]
        symbols = self._split(said[0])
        return Sounds(symbols, self._split(said[1]) if len(said) > 1 else symbols)

    def _word(self, line: int) -> bytes:
        start = int(self._starts[line])
        return self._text[start : self._text.index(b"\t", start)]

    def _split(self, said: str) -> tuple[str, ...]:
        return tuple(said.split(" ")) if self._spaced else tuple(said)
