"""Splitting replies, what of them is said, which transcripts look whole."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.think.endings import Ending, ending, looks_finished
from gateway.think.sentences import RUN_ON, RUN_ON_HARD, SentenceSplitter, spoken

TRANSCRIPTS = Path(__file__).parents[4] / "shared" / "audio" / "transcripts.json"


def split(text: str, first_min_chars: int = 1, sizes: list[int] | None = None) -> list[str]:
    """The pieces of `text` fed in tokens of `sizes` characters, again and again; whole without them."""
    splitter = SentenceSplitter(first_min_chars)
    pieces: list[str] = []
    at, step = 0, 0
    while at < len(text):
        size = sizes[step % len(sizes)] if sizes else len(text)
        pieces += splitter.feed(text[at : at + size])
        at, step = at + size, step + 1
    return pieces + splitter.flush()


@pytest.mark.parametrize(
    "pieces",
    [
        ["One. ", "Two! ", "Three? ", "Four"],
        ["Pi is 3.14 or so. ", "Yes."],
        ["It costs $3.50. ", "Fine."],
        ["Dr. Who met Mrs. Peel. ", "They left."],
        ["Fruit, e.g. apples, i.e. food. ", "Eat."],
        ["He is in the U.S. Army. ", "Good."],
        ["He lives in the U.S. ", "The end."],
        ["J. R. R. Tolkien wrote it. ", "Read it."],
        ["So do I. ", "And you?"],
        ["Wait... what? ", "No."],
        ["Wait… what? ", "No."],
        ["Well... ", "Maybe."],
        ["Really?! ", "Yes!! ", "No."],
        ['He said "Go." ', "Then he left."],
        ['"Really?" she asked. ', "He nodded."],
        ["(It is late.) ", "Go home."],
        ["See https://example.com/a.b?c=d.html for it. ", "Bye."],
        ["Go to www.example.com. ", "Bye."],
        ["Write to jo.doe@example.co.uk today. ", "Bye."],
        ["It is 3:30 p.m. now. ", "Go."],
        ["Come at 5 p.m. ", "We wait."],
        ["We open at 9 a.m. Monday. ", "Come."],
        ["Acme Inc. makes it. ", "Buy."],
        ["Apples, pears, etc. are fruit. ", "Eat."],
        ["I said no. ", "Then no. 5 came."],
        ["It takes 20 ms. ", "Fast."],
        ["It was 1999. ", "Then 2000."],
        ["Steps: ", "\n1. Wash the rice. ", "\n2. Cook it."],
        ["First line", "\nsecond line", "\n\n- third"],
        ["**Bold.** ", "Plain."],
        ["all lower case here. ", "next one."],
        ["Am 3. Mai war z. B. Dr. Meier da. ", "Gut."],
        ["यह एक वाक्य है। ", "यह दूसरा है॥ ", "अंत"],
        ["今日はいい天気です。", "散歩に行きましょう！", "はい。"],
        ["他说：「走吧。」", "然后走了。"],
        ["真的吗?", "好的。"],
        ["هل أنت بخير؟ ", "نعم. ", "شكرا"],
        ["یہ ٹھیک ہے۔ ", "شکریہ"],
        ["¿Qué tal? ", "¡Bien!"],
    ],
)
def test_sentences(pieces: list[str]) -> None:
    text = "".join(pieces)
    first, *found = split("Start.\n" + text)  # a first piece has rules of its own
    assert first == "Start."
    # spacing belongs to the piece after it; the table shows it where it reads well
    assert [piece.strip() for piece in found] == [piece.strip() for piece in pieces]
    assert "".join(found) == "\n" + text


@pytest.mark.parametrize(
    "text", ["3.", "Dr.", "e.g.", "The U.S.", "The U.S. Ar", "Well...", "Hi!", "No", "He said “go.”", "好。"]
)
def test_nothing_is_emitted_before_the_next_character_decides(text: str) -> None:
    splitter = SentenceSplitter(1)
    assert splitter.feed(text) == []
    assert splitter.flush() == [text]
    assert splitter.flush() == []


def test_the_next_character_decides_at_once() -> None:
    splitter = SentenceSplitter(1)
    assert splitter.feed("It is 3.") == []
    assert splitter.feed("14. ") == []
    assert splitter.feed("N") == []  # German has ordinals ("3. Mai"), so a number waits for the word
    assert splitter.feed("ow") == []
    assert splitter.feed(" what") == ["It is 3.14."]
    assert splitter.feed(" now? ") == []
    assert splitter.feed("Y") == [" Now what now?"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Hi! I am fine. And you?", "Hi! I am fine."),
        ("Well, I have thought about it, and yes.", "Well, I have thought about it,"),
        ("I have thought; it works well.", "I have thought;"),
        ("I have thought — it works well.", "I have thought —"),
        ("I have thought - it works well.", "I have thought -"),
        ("Here is the answer: it works.", "Here is the answer:"),
        (
            "It is a well-known thing at 3:30 and 1,000 more.",
            "It is a well-known thing at 3:30 and 1,000 more.",
        ),
        ("今日はとてもいい天気ですから、散歩に行きましょう。", "今日はとてもいい天気ですから、"),
    ],
)
def test_first_piece_is_short_but_not_too_short(text: str, first: str) -> None:
    assert split(text, first_min_chars=12)[0] == first


def test_only_the_first_piece_ends_at_a_comma() -> None:
    assert split("One two three, four. Five six seven, eight.", 8) == [
        "One two three,",
        " four.",
        " Five six seven, eight.",
    ]


def test_a_reply_shorter_than_the_minimum_is_said() -> None:
    assert split("Yes.", 24) == ["Yes."]
    assert split("Yes", 24) == ["Yes"]


def test_run_on_breaks_at_a_comma_then_at_a_space_then_anywhere() -> None:
    commas = "one two three four five, " * 20
    assert all(piece.endswith(",") and len(piece) <= RUN_ON for piece in split("A. " + commas)[1:-1])
    spaces = "word " * 100
    assert all(len(piece) <= RUN_ON for piece in split(spaces))
    assert all(piece.strip("word ") == "" and piece.endswith("d") for piece in split(spaces)[:-1])
    assert [len(piece) for piece in split("x" * 1000)] == [RUN_ON_HARD, RUN_ON_HARD, 1000 - 2 * RUN_ON_HARD]


@pytest.mark.parametrize(
    "text", ["word " * 40_000, "." * 200_000, "。" * 100_000, '"' * 200_000, "a" * 200_000]
)
def test_a_flood_is_cut_in_linear_time_and_never_held(text: str) -> None:
    splitter = SentenceSplitter(24)
    began = time.perf_counter()
    pieces = splitter.feed(text)
    assert time.perf_counter() - began < 5
    rest = "".join(splitter.flush())
    assert "".join(pieces) + rest == text
    assert len(rest) <= RUN_ON_HARD


_FRAGMENTS = (
    "Dr. ", "e.g. ", "U.S. ", "p.m. ", "3.14", "... ", "?! ", "https://a.bc/d. ", "a@b.co ", "no. ", "1. ",
    "The ", "Mai ", "lower ", "Word ", "word, " * 30, "x" * 120, " " * 30, "\n", "\")" * 110, "." * 210,
)  # fmt: skip
_MIXED = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.text(alphabet=" .,!?…\n\"'”)(:;-—*1234aAbBdDrI。、！？」।؟", max_size=16),
        st.sampled_from(_FRAGMENTS),
    ),
    max_size=14,
).map("".join)
_SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(_MIXED, st.integers(0, 60), _SIZES)
def test_all_pieces_joined_are_the_text(text: str, first: int, sizes: list[int]) -> None:
    assert "".join(split(text, first, sizes)) == text


@settings(max_examples=400, deadline=None)
@given(_MIXED, st.integers(0, 60), _SIZES)
def test_how_the_text_was_cut_into_tokens_changes_nothing(text: str, first: int, sizes: list[int]) -> None:
    assert split(text, first, sizes) == split(text, first)


@settings(max_examples=200, deadline=None)
@given(_MIXED, st.integers(0, 60), _SIZES)
def test_pieces_are_bounded_and_the_first_is_long_enough(text: str, first: int, sizes: list[int]) -> None:
    pieces = split(text, first, sizes)
    assert all(0 < len(piece) <= RUN_ON_HARD for piece in pieces)
    if len(pieces) > 1 and len(pieces[0]) < RUN_ON // 4:
        assert len(pieces[0].strip()) >= first


# ---- spoken --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  Hello   there.\n", "Hello there."),
        ("**Bold** and *italic* and __both__ and `code`.", "Bold and italic and both and code."),
        ("# Heading", "Heading"),
        ("\n- first item", "first item"),
        ("\n1. Wash it.", "1. Wash it."),
        ("See [the page](https://example.com).", "See the page."),
        ("Use snake_case here.", "Use snake case here."),
        ("I like C# and #music.", "I like C# and music."),
        ("Great! 🎉👩‍👩‍👧 Yes 👍🏽.", "Great! Yes ."),
        ("It is 20 °C.", "It is 20 °C."),
        ("1️⃣ first", "1 first"),
        ("🎉", ""),
        ("...", ""),
        ("* * *", ""),
        ("```", ""),
        ("", ""),
        ("क्‍ष है", "क्‍ष है"),
        ("a\x00b\x1bc", "abc"),
    ],
)
def test_spoken(text: str, said: str) -> None:
    assert spoken(text) == said


@settings(max_examples=200, deadline=None)
@given(_MIXED)
def test_spoken_is_clean_and_stays_as_it_is(text: str) -> None:
    said = spoken(text)
    assert said == said.strip()
    assert "*" not in said
    assert "`" not in said
    assert not said or any(map(str.isalnum, said))


# ---- looks_finished ------------------------------------------------------------------------------

FINISHED = {
    "en-US": [
        "what time is it", "tell me a story", "my name is anna", "yes", "no", "stop", "where are you from",
        "what is it for", "turn the light on", "count to ten", "call five five five one two three four", "five five",
        "I am done.", "Really?", "what do you want to do", "ten of clubs", "i live in berlin", "how old are you",
        "i was born in nineteen eighty five", "who is it", "say it again please", "i think so", "how are they",
    ],
    "de-DE": ["wie spät ist es", "mach das licht an", "ja", "ruf mich an", "wer ist das", "wer sind wir", "erzähl mir eine geschichte"],
    "fr-FR": ["quelle heure est il", "oui", "raconte une histoire", "j'habite à paris"],
    "es": ["qué hora es", "sí", "cuenta una historia"],
    "xx": ["whatever and", "yes"],
}  # fmt: skip
UNFINISHED = {
    "en-US": [
        "", "   ", "i want to go to", "and", "tell me a", "what is the", "i like tea and", "because", "my", "i um",
        "so uh", "wait...", "first, ", "hello —", "is", "call five five five", "it costs one hundred and",
        "she was born in nineteen eighty", "two point", "can you", "i'm looking for", "i want to know if",
        "it is my", "where is the", "what's",
    ],
    "de-DE": ["ich möchte", "ich gehe und", "der", "weil", "ich äh", "mit dem", "was ist der", "ich hätte gern eine"],
    "fr-FR": ["je voudrais", "parce que", "le", "et", "dans la", "euh"],
    "es": ["quiero", "porque", "el", "y", "en la", "me gusta el té y"],
    "xx": ["um", "yes, ", "so äh", "wait…"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("language", "text"), [(lang, text) for lang, texts in FINISHED.items() for text in texts]
)
def test_looks_finished(language: str, text: str) -> None:
    assert looks_finished(text, language)


@pytest.mark.parametrize(
    ("language", "text"), [(lang, text) for lang, texts in UNFINISHED.items() for text in texts]
)
def test_looks_unfinished(language: str, text: str) -> None:
    assert not looks_finished(text, language)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["en", "de-DE", "fr", "es", "zh-CN", "", "en_US", "???"]))
def test_looks_finished_takes_anything(text: str, language: str) -> None:
    looks_finished(text, language)


@pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the real speech is not here")
def test_real_utterances_look_finished() -> None:
    for name, entry in json.loads(TRANSCRIPTS.read_text()).items():
        if entry["text"]:
            assert looks_finished(entry["text"], entry["language"]), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", Ending.WHOLE),
        ("thank you", Ending.WHOLE),
        ("What?", Ending.WHOLE),
        ("turn the lights off please", Ending.WHOLE),
        ("turn the lights off", Ending.WHOLE),
        ("what is that for", Ending.WHOLE),
        ("chemistry", Ending.UNSURE),
        ("mister dashwood", Ending.UNSURE),
        ("there might be prudently", Ending.UNSURE),
        ("it was still in", Ending.UNSURE),
        ("he is much taller than i am", Ending.WHOLE),
        ("more respectable than he", Ending.OPEN),
        ("i might", Ending.OPEN),
        ("", Ending.OPEN),
    ],
)
def test_how_sure_the_words_are(text: str, expected: Ending) -> None:
    assert ending(text, "en-US") is expected


def test_of_an_unknown_language_short_words_may_be_whole() -> None:
    assert ending("igen", "hu") is Ending.WHOLE


@pytest.mark.parametrize(
    ("text", "ripe"),
    [
        ("That is a whole sentence.", True),
        ("That is a whole sentence", False),
        ("Is that really so?", True),
        ('He said "that is fine."', True),
        ("I spoke to Dr.", False),
        ("It costs about 3.", False),
        ("It is at www.example.", False),
        ("This goes on...", False),
        ("We meet at 5 p.m.", False),
        ("Apples and pears etc.", False),
        ("I am ok.", False),
        ("No.", False),
    ],
)
def test_ripe_is_what_looks_whole_without_what_follows(text: str, ripe: bool) -> None:
    splitter = SentenceSplitter(first_min_chars=6)
    assert splitter.feed(text) == []
    assert splitter.ripe is ripe


def test_what_was_taken_is_not_said_again_and_only_the_first_is_ripe() -> None:
    splitter = SentenceSplitter(first_min_chars=6)
    splitter.feed("That is a whole sentence.")
    assert splitter.take() == "That is a whole sentence."
    assert splitter.feed(" And this is another one.") == []
    assert not splitter.ripe
    assert splitter.flush() == [" And this is another one."]
