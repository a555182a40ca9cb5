"""Whether an utterance is over, as far as its words tell."""

from __future__ import annotations

import re
from enum import IntEnum

from gateway.think.lexicon import ENDINGS, FILLERS, OTHER, Endings

_STOPS = ".!?…。！？｡．।॥؟۔።։။"
_CLOSERS = "\"'”’»›)]}）」』】》〉*_`"
_EDGES = "\"'“‘«‹([{（「『【《〈*_`¿¡" + _CLOSERS + ",;:.!?"
_GOES_ON = ("...", "…", ",", "-", "–", "—", ":", ";", "、", "，")


class Ending(IntEnum):
    """What the words of an utterance say about its end."""

    OPEN = 0
    """More must come: "i want to go to"."""
    UNSURE = 1
    """It may be whole, and often is not: "go", "how much more"."""
    WHOLE = 2
    """It looks like a whole utterance."""


def looks_finished(text: str, language: str) -> bool:
    """Whether nothing says that more must come. Arguments are those of `ending`."""
    return ending(text, language) is not Ending.OPEN


def ending(text: str, language: str) -> Ending:
    """Judges a transcript, often lower case, unpunctuated and partly misheard.

    language: BCP-47; of an unknown one only fillers and punctuation are known. An empty text is open.
    """
    text = text.strip().lower().rstrip(_CLOSERS).replace("’", "'")
    if not text or text.endswith(_GOES_ON):
        return Ending.OPEN
    if text[-1] in _STOPS:
        return Ending.WHOLE
    data = ENDINGS.get(re.split(r"[-_]", language.lower())[0], OTHER)
    words = [word.strip(_EDGES) for word in text.split()]
    last = words[-1]
    is_question = len(words) > 2 and words[0].split("'")[0] in data.question_words
    if " ".join(words[-2:]) in data.open_phrases:
        return Ending.WHOLE if is_question else Ending.OPEN
    if len(words) > 3 and words[-3] in data.comparing and last not in FILLERS:
        return Ending.WHOLE
    if last in data.open_words or last in FILLERS:
        return Ending.WHOLE if is_question and last in data.stranding else Ending.OPEN
    if _in_number(words, data.digits, data.tens):
        return Ending.OPEN
    return Ending.UNSURE if _is_unsure(words, data) and not is_question else Ending.WHOLE


def _is_unsure(words: list[str], data: Endings) -> bool:
    if len(words) <= 2:
        return not data.is_other and " ".join(words) not in data.whole
    last = words[-1]
    return last in data.weak_words or (len(last) > 4 and last.endswith(data.weak_suffixes))


def _in_number(words: list[str], digits: frozenset[str], tens: frozenset[str]) -> bool:
    """A number of several digits being dictated, or one that has begun and may go on."""
    run = 0
    while run < len(words) and words[-1 - run] in digits:
        run += 1
    if 3 <= run <= 6:
        return True
    return (
        len(words) > 1
        and words[-1] in tens
        and (words[-2] in digits or words[-2].endswith(("teen", "hundred")))
    )
