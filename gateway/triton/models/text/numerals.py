"""Numbers in words, by a table: units, tens, hundreds and groups of three digits from the left.

That order fits English and its like; the words are data (`numbers` of a language's rules file).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 15
"""Digits of a number that is read as one; a longer one is read digit by digit."""


class Numerals:
    def __init__(self, words: Mapping[str, Any]) -> None:
        """words: `units` (0 … 19), `tens` (0, 10 … 90), `hundred`, `scales` ("", thousand, …), `minus`,
        `point`, `oh` (a zero inside a year or a time), `ordinals` (irregular: cardinal word to ordinal),
        `ordinal_ends` ([ending of the cardinal, of the ordinal]…, the first that fits), `plural_ends` likewise.
        """
        self._units: list[str] = list(words["units"])
        self._tens: list[str] = list(words["tens"])
        self._hundred: str = words["hundred"]
        self._scales: list[str] = list(words["scales"])
        self._point: str = words["point"]
        self._oh: str = words["oh"]
        self._ordinals: dict[str, str] = dict(words["ordinals"])
        self._ordinal_ends: list[list[str]] = list(words["ordinal_ends"])
        self._plural_ends: list[list[str]] = list(words["plural_ends"])

    def number(self, digits: str) -> str:
        """Of a string of digits; with a leading zero, or too long for one number, digit by digit."""
        if len(digits) > LONGEST or (len(digits) > 1 and digits[0] == "0"):
            return self.digits(digits)
        return self.cardinal(int(digits))

    def digits(self, digits: str) -> str:
        return " ".join(self._units[int(digit)] for digit in digits)

    def decimal(self, whole: str, fraction: str) -> str:
        """3.14 → three point one four."""
        return f"{self.number(whole or '0')} {self._point} {self.digits(fraction)}"

    def cardinal(self, value: int) -> str:
        """Of 0 … 10^15 - 1."""
        if not value:
            return self._units[0]
        parts: list[str] = []
        for scale in self._scales:
            value, group = divmod(value, 1000)
            if group:
                parts.insert(0, f"{self._below_thousand(group)} {scale}".strip())
        return " ".join(parts)

    def ordinal(self, value: int) -> str:
        return _last_word(self.cardinal(value), self._ordinals, self._ordinal_ends)

    def plural(self, words: str) -> str:
        """twenty → twenties."""
        return _last_word(words, {}, self._plural_ends)

    def year(self, value: int) -> str:
        """As a year between 1000 and 2999 is read: nineteen ninety five, two thousand five, nineteen oh five."""
        century, rest = divmod(value, 100)
        if century % 10 == 0 and rest < 10:
            return self.cardinal(value)
        if not rest:
            return f"{self.cardinal(century)} {self._hundred}"
        return f"{self.cardinal(century)} {self.two_digits(rest)}"

    def two_digits(self, value: int) -> str:
        """After a year's century or a time's hour: oh five, fifteen."""
        return f"{self._oh} {self.cardinal(value)}" if value < 10 else self.cardinal(value)

    def _below_thousand(self, value: int) -> str:
        hundreds, rest = divmod(value, 100)
        parts = [self._units[hundreds], self._hundred] if hundreds else []
        if rest >= len(self._units):
            parts.append(self._tens[rest // 10])
            rest %= 10
        if rest:
            parts.append(self._units[rest])
        return " ".join(parts)


def _last_word(words: str, irregular: Mapping[str, str], ends: list[list[str]]) -> str:
    head, _, last = words.rpartition(" ")
    if last in irregular:
        changed = irregular[last]
    else:
        changed = next((last.removesuffix(old) + new for old, new in ends if last.endswith(old)), last)
    return f"{head} {changed}".strip()
