"""What is written, in words."""

from __future__ import annotations

import json
import time

import pytest

from gateway.triton.models.text.expand import Expander
from tests.unit.triton.models.text.folder import RULES

_expand = Expander(json.loads(RULES.read_text()))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Pi is 3.14.", "Pi is three point one four."),
        ("It costs $5.20, €1 or £0.01.", "It costs five dollars and twenty cents, one euro or one penny."),
        ("$1,000.50, $3.5 million, 20€, $.50", "one thousand dollars and fifty cents, three point five million dollars, twenty euros, fifty cents"),
        ("$1.234 a liter", "one point two three four dollars a liter"),
        ("Dr. Lee, e.g., on St. John St. now", "Doctor Lee, for example, on Saint John Street now"),
        ("No. 5, but no. 7? No. I won't, etc.", "Number five, but number seven? No. I won't, et cetera."),
        ("In the 1990s and '80s, 1905, 2005, 2024, 1800, 2000", "In the nineteen nineties and eighties, nineteen oh five, two thousand five, twenty twenty four, eighteen hundred, two thousand"),
        ("At 3:05 pm, 10:00, 14:30, 9am, 12:30:15", "At three oh five P M, ten o'clock, fourteen thirty, nine A M, twelve thirty fifteen"),
        ("See https://example.com/a_b?x=1, ok?", "See example dot com slash a underscore b question mark x equals one, ok?"),
        ("mail a.b@x.co.uk!", "mail a dot b at x dot co dot uk!"),
        ("May 5, 2024; 12/25/2023; 2024-02-01; 5 May", "May fifth, twenty twenty four; December twenty fifth, twenty twenty three; February first, twenty twenty four; the fifth of May"),
        ("you may 5 times", "you may five times"),
        ("99/99/2024", "ninety nine / ninety nine / twenty twenty four"),
        ("call 555-123-4567", "call five five five, one two three, four five six seven"),
        ("-5 or 5-10 km at 100 %", "minus five or five to ten kilometers at one hundred percent"),
        ("1 km, 1.0 km", "one kilometer, one point zero kilometers"),
        ("1st 22nd 112th 20th 1,000th", "first twenty second one hundred twelfth twentieth one thousandth"),
        ("1/2, 3/4, 2/3, 24/7, 3½ cups", "one half, three quarters, two thirds, twenty four seven, three and one half cups"),
        ("v1.2.3", "v one point two point three"),
        ("B2B mp3 007 1,234,567.89", "B two B mp three zero zero seven one million two hundred thirty four thousand five hundred sixty seven point eight nine"),
        ("#1 #tag a&b C++ 5k", "number one hash tag a and b C plus plus five thousand"),
        ("the F.B.I. and U.S.A.", "the F B I and U S A."),
        ("“It’s”… ok", '"It\'s"… ok'),
        ("１２ ﬁsh\u200b\tin a\nrow", "twelve fish in a row"),
        ("😀 Привет 你好", "😀 Привет 你好"),
        ("0 10 100 110 1000000 15000", "zero ten one hundred one hundred ten one million fifteen thousand"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_written_is_said_in_words(written: str, said: str) -> None:
    assert _expand(written) == said


def test_a_number_too_long_for_words_is_read_digit_by_digit() -> None:
    assert _expand("1" * 5000) == " ".join(["one"] * 5000)
    assert _expand("999999999999999").startswith("nine hundred ninety nine trillion")


@pytest.mark.parametrize(
    "part", ["a", "1", "1,", "1.", "1-", "@", "a.", "$1", "-", "1/", "Dr. ", "1:", "(555) ", "9 May "]
)
def test_a_text_ten_times_as_long_costs_about_ten_times_as_much(part: str) -> None:
    def cost(length: int) -> float:
        text = (part * length)[:length]
        costs = []
        for _ in range(3):
            began = time.process_time()
            _expand(text)
            costs.append(time.process_time() - began)
        return min(costs)

    assert cost(20_000) < 40 * cost(2_000) + 0.02
