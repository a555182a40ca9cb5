"""How much silence ends a turn: by what was said, and by how this user has paused so far."""

from __future__ import annotations

from collections import deque

from gateway.think.endings import Ending

_LEAST_MS = 128
"""Shorter silence lies inside words."""
_MOST = 0.85
"""Of the long hangover."""
_TURNS = 8
"""Turns whose pauses are remembered."""
_FACTOR, _MARGIN_MS = 1.5, 64.0
"""The next pause may be longer than the longest one heard."""


class Patience:
    """One per session. Pauses about as long as the long hangover teach nothing: there a turn ends whoever speaks."""

    def __init__(self, *, learns: bool) -> None:
        self._learns = learns
        self._recent: deque[float] = deque(maxlen=_TURNS)
        self._longest = 0.0

    def paused(self, ms: float, hangover_long_ms: float) -> None:
        """The user went on after so much silence."""
        if _LEAST_MS < ms < _MOST * hangover_long_ms:
            self._longest = max(self._longest, ms)

    def turn_over(self) -> None:
        """What the user says from now on is another turn."""
        self._recent.append(self._longest)
        self._longest = 0.0

    def wait_ms(
        self, words: Ending, hangover_ms: float, hangover_long_ms: float, *, at_once: bool = False
    ) -> float:
        """Silence that ends a turn with such words.

        at_once: the reply is ready by then, so nothing that follows puts a wrong end right. A user not known
        yet is then given all the time.
        """
        middle_ms = (hangover_ms + hangover_long_ms) / 2
        if words is Ending.OPEN:
            return hangover_long_ms
        least_ms = hangover_ms if words is Ending.WHOLE else middle_ms
        if self._learns:
            longest_ms = max([*self._recent, self._longest])
            if longest_ms:
                least_ms = max(least_ms, _FACTOR * longest_ms + _MARGIN_MS)
            if at_once and not self._recent:
                return hangover_long_ms
        return min(least_ms, hangover_long_ms)
