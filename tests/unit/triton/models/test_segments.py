from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.triton.models.segments import segments


def test_a_short_text_stays_whole() -> None:
    assert list(segments("Dr. Smith paid 3.50. Then he left.")) == ["Dr. Smith paid 3.50. Then he left."]


def test_nothing_has_no_segments() -> None:
    assert list(segments(" \n ")) == []


def test_a_long_text_is_cut_after_a_sentence() -> None:
    text = "One two three four. Five six, seven eight. Nine ten."
    assert list(segments(text, 30)) == ["One two three four.", "Five six, seven eight.", "Nine ten."]


def test_a_long_sentence_is_cut_after_a_clause() -> None:
    assert list(segments("red green blue yellow, black white", 30)) == [
        "red green blue yellow,",
        "black white",
    ]


def test_a_long_clause_is_cut_between_words() -> None:
    assert list(segments("alpha beta gamma delta epsilon", 20)) == ["alpha beta gamma", "delta epsilon"]


def test_a_long_text_begins_with_a_short_piece() -> None:
    text = "One two three. Four five six. Seven eight nine ten eleven twelve."
    assert next(segments(text, 40, first=20)) == "One two three."
    assert next(segments("alpha beta gamma delta epsilon zeta", 20, first=10)) == "alpha beta gamma", (
        "no break"
    )


def test_other_scripts_have_their_own_full_stops() -> None:
    assert list(segments("今日は天気がいい。明日も晴れます。", 12)) == [
        "今日は天気がいい。",
        "明日も晴れます。",
    ]


@given(st.text(max_size=400), st.integers(4, 60))
def test_no_word_is_lost_and_no_segment_is_too_long(text: str, limit: int) -> None:
    cut = list(segments(text, limit))
    assert all(0 < len(piece) <= limit for piece in cut)
    assert "".join("".join(cut).split()) == "".join(text.split())
