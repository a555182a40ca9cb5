"""How a word is said: by the lexicon, as a form or a compound of words in it, letter by letter, or by its letters' sounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from gateway.triton.models.text.ids import plain
from gateway.triton.models.text.lexicon import Lexicon, Sounds

REMEMBERED = 4096
LONGEST_WORD = 60
"""Characters; what is longer is no word and is said in parts of this length."""
SHORT_CAPITALS = 5
"""Up to so many letters, a word in capitals that no lexicon has is spelled."""

SHORT_PART = 3
"""Letters of a compound's shorter half."""


class Words:
    """Safe in any thread."""

    def __init__(
        self,
        lexicon: Lexicon,
        settings: Mapping[str, Any],
        guess: Callable[[str], tuple[str, ...]] | None,
    ) -> None:
        """settings: `endings`, what an ending adds to the sounds of a word: [{"spelling": "ed", "stems": [["", "e"],
        …], "sounds": [[[last symbols…], [symbols…]], …]}, …], where `stems` is what the rest ends with and what the
        word ends with instead; `beginnings`: [{"spelling", "sounds"}, …]; `weaker`: the symbols of full stress to
        those of less, for the second half of a compound; `vowel_letters`: a word without any is spelled.
        guess: letters to sounds, lower case."""
        self._lexicon = lexicon
        self._endings: Sequence[Mapping[str, Any]] = settings.get("endings", ())
        self._beginnings: Sequence[Mapping[str, Any]] = settings.get("beginnings", ())
        self._weaker: Mapping[str, str] = settings.get("weaker", {})
        self._vowels = frozenset(settings.get("vowel_letters", ""))
        self._guess = guess
        self.find = lru_cache(REMEMBERED)(self._find)

    def _find(self, word: str) -> tuple[Sounds, ...]:
        """The sounds of the word, part by part (an unknown compound has several); () if it has none."""
        known = self._known(word)
        if known is not None:
            return (known,)
        bare = word.strip("'")
        if bare != word:
            return self.find(bare) if bare else ()
        parts = _parts(word)
        if len(parts) > 1:
            return tuple(sounds for part in parts for sounds in self.find(part))
        unaccented = plain(word)
        if unaccented != word:
            return self.find(unaccented) if unaccented else ()
        letters = word.replace("'", "")
        if not letters:
            return ()
        if self._is_spelled(letters):
            return self._spelled(letters)
        composed = self._composed(word.lower())
        if composed is not None:
            return (composed,)
        if self._guess is None:
            return self._spelled(letters)
        guessed = self._guess(word.lower())
        return (_whole(guessed),) if guessed else self._spelled(letters)

    def _known(self, word: str) -> Sounds | None:
        for form in dict.fromkeys((word, word.lower(), word.capitalize())):
            sounds = self._lexicon.find(form)
            if sounds is not None:
                return sounds
        for ending in self._endings:
            sounds = self._with_ending(word, ending)
            if sounds is not None:
                return sounds
        return None

    def _with_ending(self, word: str, ending: Mapping[str, Any]) -> Sounds | None:
        rest = word[: -len(ending["spelling"])] if word.lower().endswith(ending["spelling"]) else ""
        if len(rest) < 2:
            return None
        for old, new in ending["stems"]:
            if not rest.endswith(old):
                continue
            form = rest.removesuffix(old) + new
            for known in dict.fromkeys((form, form.lower(), form.capitalize())):
                sounds = self._lexicon.find(known)
                added = sounds and _added(ending["sounds"], sounds.symbols[-1])
                if sounds is not None and added is not None:
                    return _whole(sounds.symbols + added)
        return None

    def _composed(self, word: str) -> Sounds | None:
        """A known word after a beginning, or two known words, cut as near to the middle as can be."""
        for beginning in self._beginnings:
            rest = word.removeprefix(beginning["spelling"])
            sounds = self._known(rest) if rest != word and len(rest) > SHORT_PART else None
            if sounds is not None:
                return _whole((*beginning["sounds"], *sounds.symbols))
        cuts = range(SHORT_PART, len(word) - SHORT_PART + 1)
        for cut in sorted(cuts, key=lambda cut: abs(2 * cut - len(word))):
            first = self._lexicon.find(word[:cut])
            second = self._known(word[cut:]) if first is not None else None
            if first is not None and second is not None:
                return _whole(first.symbols + tuple(self._weaker.get(s, s) for s in second.symbols))
        return None

    def _is_spelled(self, letters: str) -> bool:
        in_capitals = len(letters) > 1 and letters.isupper() and len(letters) <= SHORT_CAPITALS
        return len(letters) == 1 or in_capitals or not self._vowels & set(letters.lower())

    def _spelled(self, letters: str) -> tuple[Sounds, ...]:
        names = (self._lexicon.find(letter.upper()) for letter in letters)
        return tuple(name for name in names if name is not None)


def _whole(symbols: tuple[str, ...]) -> Sounds:
    return Sounds(symbols, symbols)


def _added(sounds: Sequence[Sequence[Sequence[str]]], last: str) -> tuple[str, ...] | None:
    """By the first rule whose last symbols have this one; a rule without last symbols fits all."""
    return next((tuple(said) for lasts, said in sounds if not lasts or last in lasts), None)


def _parts(word: str) -> list[str]:
    """userName → user Name; HTTPServer → HTTP Server; too long a word in pieces."""
    cuts = [0]
    for i in range(1, len(word)):
        before, here, after = word[i - 1], word[i], word[i + 1 : i + 2]
        starts_word = here.isupper() and (
            before.islower() or (before.isupper() and after.islower() and after != "s")
        )
        if starts_word or i - cuts[-1] >= LONGEST_WORD:
            cuts.append(i)
    cuts.append(len(word))
    return [word[start:end] for start, end in pairwise(cuts)]
