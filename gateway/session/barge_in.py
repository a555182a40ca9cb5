"""Is this interruption real? (DESIGN §4, barge-in step 2.)

The judge hears how long the user was voiced, how long they have been silent and what was recognised
so far, and says so once. It knows nothing of replies or time: its caller acts on the answer.
"""

from __future__ import annotations

import re
from enum import Enum

from gateway.settings import BargeInSettings

_WORD = re.compile(r"[\w'’-]+", re.UNICODE)


def is_backchannel(text: str, settings: BargeInSettings) -> bool:
    """True when `text` is made of listening noises ("uh huh", "yeah right") alone; empty text is not.

    It may end in the middle of one: a partial transcript says "uh" before it says "uh huh".
    """
    words = [w.lower() for w in _WORD.findall(text)]
    known = [p.split() for p in settings.backchannels]
    at = 0
    while at < len(words):
        rest = words[at:]
        length = max((len(p) for p in known if rest[: len(p)] == p), default=0)
        if not length:
            return any(p[: len(rest)] == rest for p in known)
        at += length
    return bool(words)


def has_real_word(text: str, settings: BargeInSettings) -> bool:
    return bool(_WORD.search(text)) and not is_backchannel(text, settings)


class Verdict(Enum):
    OPEN = "open"
    REAL = "real"
    SILENT = "silent"
    """The user fell silent before it was confirmed: a false alarm unless the final words say otherwise."""


class Judge:
    """Judges one interruption. Feed it in the order of time; it stays with its first verdict but OPEN."""

    def __init__(self, settings: BargeInSettings, hangover_ms: float) -> None:
        self._settings = settings
        self._hangover_ms = hangover_ms
        self._voiced_ms = 0.0
        self._silent_ms = 0.0
        self._text = ""
        self.verdict = Verdict.OPEN

    def voiced(self, ms: float) -> Verdict:
        """`ms` more of voiced audio. Silence in between is not added: a hangover is no speech."""
        self._silent_ms = 0.0
        self._voiced_ms += ms
        return self._decide()

    def silent(self, ms: float) -> Verdict:
        """`ms` more of silence."""
        self._silent_ms += ms
        return self._decide()

    def recognised(self, text: str) -> Verdict:
        """The transcript so far."""
        self._text = text
        return self._decide()

    def by_final_words(self, text: str) -> bool:
        """True when the final transcript of a speech that fell silent makes it real. Too short a sound
        is none, whatever the recogniser hears in it: that may be our own voice in the pre-roll."""
        return has_real_word(text, self._settings) and self._voiced_ms >= self._settings.confirm_word_ms

    def _decide(self) -> Verdict:
        if self.verdict is not Verdict.OPEN:
            return self.verdict
        s = self._settings
        only_backchannel = is_backchannel(self._text, s)
        needed = s.confirm_backchannel_ms if only_backchannel else s.confirm_ms
        if self.by_final_words(self._text) or self._voiced_ms >= needed:
            self.verdict = Verdict.REAL
        elif self._silent_ms >= self._hangover_ms:
            self.verdict = Verdict.SILENT
        return self.verdict
