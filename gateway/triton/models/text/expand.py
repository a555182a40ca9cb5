"""Text as it is written → the words that are said: numbers, money, times, dates, addresses, signs.

Which words is a language's own data (a rules file); the shapes of what is written are here. Every
pattern begins at a boundary and has no part that matches the same characters twice, so a text
costs time in proportion to its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.triton.models.text.numerals import Numerals

_WHOLE = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_AMOUNT = rf"(?=\.?\d)({_WHOLE})?(?:\.(\d+))?"
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "«": '"', "»": '"'})
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_ISO_DATE = re.compile(r"(?<![\w-])(\d{4})-(\d{2})-(\d{2})(?![\w-])")
_SLASH_DATE = re.compile(r"(?<![\w/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\w/])")
_PHONE = re.compile(r"(?<![\w.-])(?:\+?(\d{1,3})[ .-])?\(?(\d{3})\)?[ .-](\d{3})[ .-](\d{4})(?![\w-])")
_LOCAL_PHONE = re.compile(r"(?<![\w.-])(\d{3})-(\d{4})(?![\w-])")
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?![\w])")
_DECADE = re.compile(r"(?<![\w.,])(\d{3}0)'?s(?!\w)|(?<!\w)'(\d0)s(?!\w)")
_FRACTION = re.compile(r"(?<![\w/.])(\d{1,3})[/⁄](\d{1,3})(?![\w/⁄])")
_RANGE = re.compile(r"(?<=\d)(?: ?[–−] ?|-)(?=\d)")
_NUMBER = re.compile(rf"(?:(?<![\w)])([-−]))?{_AMOUNT}")
_INITIALS = re.compile(r"(?<![\w.])(?:[^\W\d_]\.){2,}(?![\w.])(?=(\s*$)?)")
_BEFORE_MARK = re.compile(r" (?=[.,;:!?…)])")
_SPACE = re.compile(r"\s+")


class Expander:
    """Safe in any thread."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        """rules: of a language, as `triton/export/parley_export/languages/en.json` has them."""
        self._rules = rules
        self._numerals = Numerals(rules["numbers"])
        self._normal_signs = {
            sign: f" {word} "
            for sign, word in rules["signs"].items()
            if unicodedata.normalize("NFKC", sign) != sign
        }
        ends = rules["ordinal_marks"]
        currencies = _any_of(rules["currencies"])
        magnitudes = _any_of(rules["magnitudes"])
        day_parts = _any_of(rules["day_parts"])
        months = _any_of(name.capitalize() for name in rules["months"])
        marks = _any_of(ends)
        before_name = _any_of(rules["abbreviations"])
        self._passes: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
            (re.compile(r"\S+"), self._address),
            (
                re.compile(rf"(?<![\w.])({_any_of(rules['abbreviations_before_digits'])})(?= ?\d)"),
                self._short,
            ),
            (re.compile(rf"(?<![\w.])({before_name})(?!\w)(?=( [A-Z])?)"), self._abbreviation),
            (
                _INITIALS,
                lambda found: " ".join(found[0].upper().split(".")[:-1]) + "."[: found[1] is not None],
            ),
            (_ISO_DATE, lambda found: self._date(found[1], found[2], found[3], found[0])),
            (_SLASH_DATE, self._slash_date),
            (
                re.compile(
                    rf"(?<!\w)({months})\.? (\d{{1,2}})(?:{marks})?(?![\w.:,]\d|\w)(?:,? (\d{{4}})(?!\w))?"
                ),
                self._month_day,
            ),
            (
                re.compile(
                    rf"(?<![\w.,])(\d{{1,2}})(?:{marks})? (?:of )?({months})(?!\w)(?: (\d{{4}})(?!\w))?"
                ),
                self._day_month,
            ),
            (
                re.compile(
                    rf"(?<![\w:.])(\d{{1,2}}):([0-5]\d)(?::([0-5]\d))?(?: ?({day_parts})(?!\w))?(?![\d:])"
                ),
                self._time,
            ),
            (re.compile(rf"(?<![\w:.,])(\d{{1,2}}) ?({day_parts})(?!\w)"), self._hour),
            (_PHONE, lambda found: ", ".join(self._numerals.digits(part) for part in found.groups() if part)),
            (_LOCAL_PHONE, lambda found: ", ".join(self._numerals.digits(part) for part in found.groups())),
            (_RANGE, lambda found: f" {rules['to']} "),
            (
                re.compile(rf"({currencies}) ?{_AMOUNT}(?: ?({magnitudes})(?!\w))?"),
                lambda found: self._money(found[1], found[2], found[3], found[4]),
            ),
            (
                re.compile(rf"(?<![\w.,]){_AMOUNT} ?({currencies})"),
                lambda found: self._money(found[3], found[1], found[2], None),
            ),
            (_VERSION, lambda found: f" {rules['numbers']['point']} ".join(found[0].split("."))),
            (re.compile(rf"(?<![\w.,]){_AMOUNT}({_glued(rules['magnitudes'])})(?!\w)"), self._magnitude),
            (re.compile(rf"(?<![\w.,]){_AMOUNT} ?({_any_of(rules['measures'])})(?!\w)"), self._measure),
            (_DECADE, self._decade),
            (re.compile(rf"(?<![\w.,])({_WHOLE})(?:{marks})(?!\w)"), self._ordinal),
            (_FRACTION, self._fraction),
            (_NUMBER, self._number),
            (re.compile(_any_of(rules["signs"])), lambda found: f" {rules['signs'][found[0]]} "),
        ]

    def __call__(self, text: str) -> str:
        """One line of words and punctuation."""
        for sign, word in self._normal_signs.items():
            text = text.replace(sign, word)
        text = _VULGAR.sub(f" {self._rules['and']} ", text)
        text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).replace("...", "…")
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        text = _SPACE.sub(" ", text)
        for pattern, say in self._passes:
            text = pattern.sub(say, text)
        return _BEFORE_MARK.sub("", _SPACE.sub(" ", text)).strip()

    def _address(self, found: re.Match[str]) -> str:
        """A URL, a domain or an e-mail address, sign by sign."""
        bare = found[0].rstrip(".,;:!?\"')]}>")
        address = bare.lstrip("\"'([{<")
        signs: dict[str, str] = self._rules["address_signs"]
        if not self._is_address(address):
            return found[0]
        said = re.sub(r"^\w+://", "", address).rstrip("/")
        said = "".join(f" {signs[c]} " if c in signs else c for c in said)
        head, tail = bare[: len(bare) - len(address)], found[0][len(bare) :]
        return f"{head}{said.strip()}{tail}"

    def _is_address(self, text: str) -> bool:
        if "://" in text or text.startswith("www."):
            return True
        host = text.partition("@")[2] or text.partition("/")[0]
        labels = host.split(".")
        if "@" in text:
            return len(labels) > 1 and all(labels)
        return (
            len(labels) > 1
            and all(labels)
            and labels[-1].lower() in self._rules["domains"]
            and labels[0].isalnum()
        )

    def _short(self, found: re.Match[str]) -> str:
        return f"{self._rules['abbreviations_before_digits'][found[1]]} "

    def _abbreviation(self, found: re.Match[str]) -> str:
        short, before_name = found[1], found[2]
        word = str(self._rules["abbreviations"][short])
        if not before_name:
            word = str(self._rules["abbreviations_elsewhere_than_before_names"].get(short, word))
        ends_sentence = found.end() == len(found.string.rstrip()) or (before_name and short[0].islower())
        return word + ("." if short.endswith(".") and ends_sentence else "")

    def _date(self, year: str, month: str, day: str, written: str) -> str:
        names = list(dict.fromkeys(self._rules["months"].values()))
        if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
            return written
        return self._spoken_date(names[int(month) - 1], day, year, "month_day")

    def _slash_date(self, found: re.Match[str]) -> str:
        part = dict(zip(self._rules["date_order"], found.groups(), strict=True))
        return self._date(part["y"], part["m"], part["d"], found[0])

    def _month_day(self, found: re.Match[str]) -> str:
        return self._spoken_date(self._rules["months"][found[1].lower()], found[2], found[3], "month_day")

    def _day_month(self, found: re.Match[str]) -> str:
        return self._spoken_date(self._rules["months"][found[2].lower()], found[1], found[3], "day_month")

    def _spoken_date(self, month: str, day: str, year: str | None, order: str) -> str:
        said = str(self._rules[order]).format(month=month, day=self._numerals.ordinal(int(day)))
        if not year:
            return said
        return f"{said}, {self._numerals.year(int(year)) if len(year) == 4 else self._numerals.number(year)}"

    def _time(self, found: re.Match[str]) -> str:
        hour, minute, second, part = int(found[1]), int(found[2]), found[3], found[4]
        if hour > 24:
            return found[0]
        said = self._numerals.cardinal(hour)
        if minute or second:
            said += f" {self._numerals.two_digits(minute)}"
        elif not part and 1 <= hour <= 12:
            said += f" {self._rules['sharp']}"
        elif not part:
            said += f" {self._rules['numbers']['hundred']}"
        if second:
            said += f" {self._numerals.two_digits(int(second))}"
        return said + (f" {self._rules['day_parts'][part]}" if part else "")

    def _hour(self, found: re.Match[str]) -> str:
        return f"{self._numerals.cardinal(int(found[1]))} {self._rules['day_parts'][found[2]]}"

    def _money(self, sign: str, whole: str | None, fraction: str | None, magnitude: str | None) -> str:
        one, many, small_one, small_many = self._rules["currencies"][sign]
        digits = (whole or "").replace(",", "")
        if magnitude:
            return f" {self._amount(whole, fraction)} {self._rules['magnitudes'][magnitude]} {many} "
        if fraction and (len(fraction) != 2 or not small_one):
            return f" {self._amount(whole, fraction)} {many} "
        cents = int(fraction or 0)
        parts = []
        if digits.strip("0") or not cents:
            parts.append(f"{self._numerals.number(digits or '0')} {one if digits == '1' else many}")
        if cents:
            parts.append(f"{self._numerals.cardinal(cents)} {small_one if cents == 1 else small_many}")
        return f" {(' ' + self._rules['and'] + ' ').join(parts)} "

    def _amount(self, whole: str | None, fraction: str | None) -> str:
        digits = (whole or "").replace(",", "")
        return self._numerals.decimal(digits, fraction) if fraction else self._numerals.number(digits)

    def _magnitude(self, found: re.Match[str]) -> str:
        return f"{self._amount(found[1], found[2])} {self._rules['magnitudes'][found[3]]}"

    def _measure(self, found: re.Match[str]) -> str:
        one, many = self._rules["measures"][found[3]]
        return f"{self._amount(found[1], found[2])} {one if found[1] == '1' and not found[2] else many}"

    def _decade(self, found: re.Match[str]) -> str:
        return self._numerals.plural(
            self._numerals.year(int(found[1])) if found[1] else self._numerals.number(found[2])
        )

    def _ordinal(self, found: re.Match[str]) -> str:
        digits = found[1].replace(",", "")
        return self._numerals.ordinal(int(digits)) if len(digits) <= 15 else self._numerals.digits(digits)

    def _fraction(self, found: re.Match[str]) -> str:
        upper, lower = int(found[1]), int(found[2])
        if not 0 < upper < lower or lower < 2:
            return f"{self._numerals.number(found[1])} {self._numerals.number(found[2])}"
        whole = self._numerals.ordinal(lower)
        one, many = self._rules["fractions"].get(str(lower), (whole, self._numerals.plural(whole)))
        return f"{self._numerals.cardinal(upper)} {one if upper == 1 else many}"

    def _number(self, found: re.Match[str]) -> str:
        whole, fraction = found[2], found[3]
        minus = f"{self._rules['minus']} " if found[1] else ""
        is_year = whole and not fraction and len(whole) == 4 and "1100" <= whole <= "2999"
        said = self._numerals.year(int(whole)) if is_year else self._amount(whole, fraction)
        return f" {minus}{said} "


def _any_of(words: Iterable[str]) -> str:
    """An alternation, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _glued(magnitudes: Mapping[str, str]) -> str:
    """Those that stand for a number without money, too: an m may be meters."""
    return _any_of(word for word in magnitudes if len(word) < 3 and word != "m")
