"""Numbers as people say them, in English: read from a transcript, written for a voice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(_SMALL)} | {
    word: 20 + 10 * step for step, word in enumerate(_TENS)
}
_MAX_DIGITS = 6


def read_numbers(words: Sequence[str]) -> list[int]:
    """The numbers in a transcript's lower-case words, up to 999,999: "twenty five and 7" is [25, 7]."""
    found: list[int] = []
    open_to = 0  # the next word adds to the newest number if it is below this
    for word in words:
        digits = word.lstrip("-").replace(",", "")
        if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS:
            found.append(-int(digits) if word.startswith("-") else int(digits))
            open_to = 0
        elif word == "hundred" and found and 0 < found[-1] < 10:
            found[-1] *= 100
            open_to = 100
        elif word in ("hundred", "thousand"):
            found.append(100 if word == "hundred" else 1000)
            open_to = 100
        elif word == "and" and open_to == 100:
            continue
        elif all(part in _VALUES for part in word.split("-")):
            value = sum(_VALUES[part] for part in word.split("-"))
            if 0 < value < open_to:
                found[-1] += value
            else:
                found.append(value)
            open_to = 10 if value >= 20 and "-" not in word else 0
        else:
            open_to = 0
    return found


def say_number(value: int) -> str:
    """123 is "one hundred and twenty-three"; a number of seven digits or more stays in digits."""
    if value < 0:
        return f"minus {say_number(-value)}"
    if value < 20:
        return _SMALL[value]
    if value < 100:
        ten, one = divmod(value, 10)
        return _TENS[ten - 2] + (f"-{_SMALL[one]}" if one else "")
    if value < 1_000:
        hundreds, rest = divmod(value, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {say_number(rest)}" if rest else "")
    if value < 1_000_000:
        thousands, rest = divmod(value, 1_000)
        joint = " and " if rest < 100 else " "
        return f"{say_number(thousands)} thousand" + (f"{joint}{say_number(rest)}" if rest else "")
    return str(value)


def say_time(now: datetime) -> str:
    """14:05 is "two oh five in the afternoon"."""
    hour = say_number((now.hour - 1) % 12 + 1)
    if now.minute == 0:
        clock = f"{hour} o'clock"
    elif now.minute < 10:
        clock = f"{hour} oh {say_number(now.minute)}"
    else:
        clock = f"{hour} {say_number(now.minute)}"
    parts = ((5, "at night"), (12, "in the morning"), (18, "in the afternoon"), (22, "in the evening"))
    part = next((name for until, name in parts if now.hour < until), "at night")
    return f"{clock} {part}"


def say_date(now: datetime) -> str:
    """For example "Tuesday, July 14, 2026"."""
    return f"{now:%A}, {now:%B} {now.day}, {now.year}"
