"""Tokens to text, words and their times."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.triton.models.asr.engine import Word
from gateway.triton.models.pieces import Pieces, Span, bytelevel_alphabet


def sentencepiece(*pieces: str, **told: Any) -> Pieces:
    return Pieces({"kind": "sentencepiece", "pieces": list(pieces), **told})


def test_words_begin_at_marks() -> None:
    pieces = sentencepiece("▁he", "llo", "▁world", "s")
    assert pieces.text([0, 1, 2, 3]) == "hello worlds"
    assert pieces.spans([0, 1, 2, 3]) == [Span("hello", 0, 1), Span("worlds", 2, 3)]


def test_a_word_lasts_from_its_first_token_to_its_last() -> None:
    pieces = sentencepiece("▁he", "llo", "▁world")
    times = [(0, 80), (160, 240), (400, 480)]
    assert pieces.words([0, 1, 2], times) == [Word("hello", 0, 240), Word("world", 400, 480)]


def test_words_of_one_frame_do_not_overlap() -> None:
    pieces = sentencepiece("▁a", "▁b", "c")
    assert pieces.words([0, 1, 2], [(80, 160)] * 3) == [Word("a", 80, 80), Word("bc", 80, 160)]
    assert pieces.words([], []) == []


def test_a_mark_alone_divides_and_belongs_to_no_word() -> None:
    pieces = sentencepiece("▁", "a", "b")
    assert pieces.spans([1, 0, 0, 2, 0]) == [Span("a", 0, 0), Span("b", 3, 3)]
    assert pieces.spans([0]) == []


def test_one_token_may_hold_several_words() -> None:
    pieces = sentencepiece("▁of▁the", "m")
    assert pieces.spans([0, 1]) == [Span("of", 0, 0), Span("them", 0, 1)]


def test_a_character_in_single_bytes_is_one_word() -> None:
    pieces = sentencepiece("▁", "<0xC3>", "<0xA9>", "t")
    assert pieces.text([0, 1, 2, 3, 1, 2]) == "été"
    assert pieces.spans([1, 2, 3]) == [Span("ét", 0, 2)]
    assert pieces.text([3, 1]) == "t\ufffd"


def test_byte_pieces_may_be_plain_text() -> None:
    assert sentencepiece("<0x41>", bytes=False).text([0]) == "<0x41>"
    assert sentencepiece("<0x41>").text([0]) == "A"


def test_bytelevel_characters_over_tokens() -> None:
    spelled = {byte: character for character, byte in bytelevel_alphabet().items()}
    pieces = Pieces(
        {"kind": "bytelevel", "pieces": ["Ġ", *(spelled[byte] for byte in "日".encode()), "<|x|> y"]}
    )
    assert pieces.text([1, 2, 3, 0, 1, 2, 3]) == "日 日"
    assert pieces.spans([0, 1, 2, 3]) == [Span("日", 1, 3)]
    assert pieces.text([4]) == "<|x|> y"
    assert len(bytelevel_alphabet()) == len(set(bytelevel_alphabet().values())) == 256


def test_characters() -> None:
    pieces = Pieces({"kind": "characters", "pieces": ["<pad>", "|", "a", "b"], "special": [0]})
    assert pieces.text([2, 0, 1, 3, 3]) == "a bb"
    assert Pieces({"kind": "characters", "pieces": [" ", "a"], "space": " "}).text([1, 0, 1]) == "a a"


def test_special_and_unknown_ids_are_no_text() -> None:
    pieces = sentencepiece("<s>", "▁a", special=[0])
    assert pieces.text([0, 1, 0, 7, -1]) == "a"
    assert pieces.spans([0, 1, 0]) == [Span("a", 1, 1)]


@pytest.mark.parametrize(
    "told", [{}, {"kind": "wordpiece"}, {"kind": "characters"}, {"kind": "characters", "pieces": [1]}]
)
def test_what_is_no_tokens_json(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tokens"):
        Pieces(told)
