"""Text on its way to the voice: pieces to synthesise, and what of them to say."""

from __future__ import annotations

import re
import unicodedata

from gateway.think.lexicon import (
    AFTER_ORDINAL,
    BEFORE_NUMBER,
    MAYBE_LAST,
    NEVER_LAST,
    STARTERS,
    TITLES,
)

RUN_ON = 200
"""Characters after which a sentence without an end is broken at a comma, else at a space."""
RUN_ON_HARD = 2 * RUN_ON
"""Characters after which it is broken anywhere."""
_LOOKAHEAD = 24
"""Most characters past a full stop that can change what it means."""
_WINDOW = RUN_ON_HARD + 2 * _LOOKAHEAD
"""No more than this is looked at for one piece."""

_WIDE_STOPS = "。！？｡．।॥؟۔።։။"
_STOPS = ".!?…" + _WIDE_STOPS
_CLOSERS = "\"'”’»›)]}）」』】》〉*_`"
_OPENERS = "\"'“‘«‹([{（「『【《〈*_`¿¡"
_SOFT = ",;:"
_WIDE_SOFT = "，、；：،؛"
_CANDIDATE = re.compile(rf"[{re.escape(_STOPS)}]+|\n|[{_SOFT}{_WIDE_SOFT}—–-]")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_LETTERS = re.compile(r"[^\W\d_]+")

_UNDECIDED = -1
_NO = -2


_ENDS = tuple(".!?")


class SentenceSplitter:
    """Cuts a reply into pieces to synthesise, as its tokens arrive. One per reply.

    All pieces joined are the text fed, and how the text was cut into tokens changes nothing. The
    first piece has at least `first_min_chars` characters and may end at a comma or the like; later
    pieces are sentences.
    """

    def __init__(self, first_min_chars: int) -> None:
        self._first_min = max(first_min_chars, 1)
        self._first = True
        self._rest = ""
        self._settled = True
        """Nothing in `_rest` waits for more text to be decided."""

    def feed(self, token_text: str) -> list[str]:
        """Returns the pieces that this text completed."""
        text = self._rest + token_text
        if self._settled and len(text) <= RUN_ON and not _CANDIDATE.search(token_text):
            self._rest = text  # the usual token
            return []
        pieces = []
        at = 0
        while cut := self._cut(text[at : at + _WINDOW]):
            pieces.append(text[at : at + cut])
            at += cut
            self._first = False
        self._rest = text[at:]
        self._settled = len(self._rest) <= RUN_ON and self._boundary(self._rest)[1] > RUN_ON
        return pieces

    @property
    def ripe(self) -> bool:
        """The reply's first piece is all here, as far as can be told without the text that follows it.

        Whoever has waited for that in vain may `take` it: a full stop after a plain word seldom turns out
        to be something else ("the name is example" … ".com").
        """
        if not self._first or self._settled:
            return False
        text = self._rest.rstrip(_CLOSERS)
        if text[-1:] not in _ENDS or text[-2:-1] in _STOPS or not self._long_enough(text):
            return False
        word = _word_before(text, len(text) - 1)
        if text[-1] != ".":
            return word.isalpha()
        is_plain = len(word) > 2 and word.replace("'", "").replace("’", "").isalpha()
        return is_plain and word not in TITLES and word.lower() not in NEVER_LAST | MAYBE_LAST | BEFORE_NUMBER

    def take(self) -> str:
        """The piece that is `ripe`."""
        self._first = False
        piece, self._rest = self._rest, ""
        return piece

    def flush(self) -> list[str]:
        """The end of the reply: returns what is left, with or without a full stop."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []

    def _cut(self, text: str) -> int:
        """Where the next piece ends; 0: not known yet."""
        cut, undecided = self._boundary(text)
        if 0 < cut <= RUN_ON:
            return cut
        if len(text) <= RUN_ON or (undecided <= RUN_ON and len(text) < RUN_ON_HARD):
            return 0
        return _run_on(text, cut)

    def _boundary(self, text: str) -> tuple[int, int]:
        """(end of the first piece or 0, where a decision waits for more text or a large number)."""
        for found in _CANDIDATE.finditer(text):
            at, end = found.span()
            mark = text[at]
            if mark == "\n":
                cut = at
            elif mark in _STOPS:
                cut = _after_stop(text, at, end)
            else:
                cut = _after_soft(text, at) if self._first else _NO
            if cut == _UNDECIDED:
                return 0, at
            if cut > 0 and self._long_enough(text[:cut]):
                return cut, len(text) + RUN_ON_HARD
        return 0, len(text) + RUN_ON_HARD

    def _long_enough(self, piece: str) -> bool:
        if self._first and len(piece.strip()) < self._first_min:
            return False
        return any(map(str.isalnum, piece))


def _after_stop(text: str, at: int, end: int) -> int:
    """The cut after the stops in text[at:end]; _NO when they end nothing, _UNDECIDED when unknown yet."""
    closed = end
    while closed < len(text) and text[closed] in _CLOSERS:
        closed += 1
    if closed == len(text):
        return _UNDECIDED
    stops = text[at:end]
    follower = text[closed]
    if stops[-1] in _WIDE_STOPS:
        return closed
    if not follower.isspace():
        # "3.14", "example.com"; but scripts without spaces also use ASCII marks
        return closed if stops[-1] in "!?" and _is_ideograph(follower) else _NO
    following = text[closed : closed + _LOOKAHEAD].lstrip(" \t\u00a0")
    if not following:
        return _UNDECIDED if len(text) < closed + _LOOKAHEAD else _NO
    if following[0] in "\r\n":
        return closed
    if stops != ".":
        goes_on = following[0].islower() and (closed > end or stops[-1] in ".…")
        return _NO if goes_on else closed
    if closed > end and following[0].islower():
        return _NO
    return _after_period(text, at, closed, following)


def _after_period(text: str, at: int, closed: int, following: str) -> int:
    word = _word_before(text, at)
    lower = word.lower()
    if word in TITLES or lower in NEVER_LAST or _is_enumeration(text, at, word):
        return _NO
    if lower in BEFORE_NUMBER and following[0].isdigit():
        return _NO
    is_number = word[-1:].isdigit()
    is_maybe = lower in MAYBE_LAST or bool(_INITIALS.fullmatch(word))
    if not is_number and not is_maybe:
        return closed
    if not following[0].isalpha():
        return closed if is_number else _NO
    if following[0].islower():
        return _NO
    match = _LETTERS.match(following)
    following_word = match.group() if match else ""
    if match and match.end() == len(following) and len(text) < closed + _LOOKAHEAD:
        return _UNDECIDED
    if is_number:
        return _NO if following_word.lower() in AFTER_ORDINAL else closed
    is_initial = len(following_word) == 1 and following[1:2] == "."
    return closed if following_word.lower() in STARTERS and not is_initial else _NO


def _word_before(text: str, at: int) -> str:
    start = at
    while start > 0 and not text[start - 1].isspace() and at - start < _LOOKAHEAD:
        start -= 1
    return text[start:at].lstrip(_OPENERS + "-–—/")


def _is_enumeration(text: str, at: int, word: str) -> bool:
    """A number or letter that opens its line: "1. Wash the rice"."""
    line = text[text.rfind("\n", 0, at) + 1 : at].lstrip(" \t" + _OPENERS + "-#")
    return line == word and (word.isdigit() or (len(word) == 1 and word != "I"))


def _after_soft(text: str, at: int) -> int:
    """The cut after a comma, semicolon, colon or dash that may end a first piece."""
    mark = text[at]
    if mark in _WIDE_SOFT or mark == "—":
        return at + 1
    if at + 1 == len(text):
        return _UNDECIDED
    if not text[at + 1].isspace():
        return _NO
    if mark in "–-" and not text[at - 1 : at].isspace():
        return _NO
    return at + 1


def _run_on(text: str, cut: int) -> int:
    """Where to break a text of more than RUN_ON characters; 0: not yet."""
    spaces = [i for i in range(RUN_ON // 4, RUN_ON + 1) if text[i].isspace()]
    commas = [
        end
        for found in _CANDIDATE.finditer(text, RUN_ON // 4, RUN_ON)
        if text[found.start()] in _SOFT + _WIDE_SOFT + "—–-" and (end := _after_soft(text, found.start())) > 0
    ]
    for ends in (commas, spaces):
        if ends and any(map(str.isalnum, text[: ends[-1]])):
            return ends[-1]
    later = [i for i in range(RUN_ON + 1, min(len(text), RUN_ON_HARD)) if text[i].isspace()][:1]
    if cut:
        later.append(cut)
    if len(text) >= RUN_ON_HARD:
        later.append(RUN_ON_HARD)
    return min(later, default=0)


def _is_ideograph(char: str) -> bool:
    return "\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af"


# ---- what to say -----------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_LINE_MARK = re.compile(r"^[ \t]*(?:[-+*•][ \t]+|#{1,6}[ \t]*|>[ \t]*)+", re.MULTILINE)
_KEPT_SYMBOLS = frozenset("°©®™№℃℉℗")


def spoken(text: str) -> str:
    """What of a piece the voice is given: no markdown, no emojis, single spaces; "" when nothing is left to say."""
    text = _LINK.sub(r"\1", text)
    text = _LINE_MARK.sub("", text)
    text = re.sub(r"(?<=\w)_+(?=\w)", " ", text)
    text = re.sub(r"[*_`]+|#(?!\s)(?<!\w#)", "", text)
    text = _without_emojis(text)
    text = " ".join(text.split())
    return text if any(map(str.isalnum, text)) else ""


def _without_emojis(text: str) -> str:
    kept: list[str] = []
    in_emoji = False
    for char in text:
        category = unicodedata.category(char)
        if category == "So" and char not in _KEPT_SYMBOLS:
            in_emoji = True
            kept.append(" ")
        elif (
            char in "\ufe0f\ufe0e\u20e3"
            or "\U0001f3fb" <= char <= "\U0001f3ff"
            or ((char == "\u200d" or "\U000e0020" <= char <= "\U000e007f") and in_emoji)
            or (category == "Cc" and not char.isspace())
        ):
            continue
        else:
            in_emoji = False
            kept.append(char)
    return "".join(kept)
