"""What the stand-in says, to transcripts as weak recognisers give them."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.think.history import INTERRUPTED_NOTE, History
from gateway.think.stand_in_numbers import read_numbers, say_number, say_time
from gateway.think.stand_in_replies import INTRODUCTION, reply_to
from gateway.think.stand_in_story import STORY

NOW = datetime(2026, 7, 14, 14, 5)
TALKED = [("user", "hello"), ("assistant", f"{INTRODUCTION} Hello. What can I do for you?")]


def ask(text: str, before: list[tuple[str, str]] | None = None) -> str:
    return reply_to([*(TALKED if before is None else before), ("user", text)], NOW)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("hello", "Hello. What can I do for you?"),
        ("what time is it", "It is two oh five in the afternoon."),
        ("What's the time, please?", "It is two oh five in the afternoon."),
        ("what day is it today", "Today is Tuesday, July 14, 2026."),
        ("what is the date", "Today is Tuesday, July 14, 2026."),
        ("count from one to five", "One, two, three, four, five."),
        ("count from one two five", "One, two, three, four, five."),
        ("please count from 8 to 12", "Eight, nine, ten, eleven, twelve."),
        ("count down from three", "Three, two, one."),
        ("count from five to three", "Five, four, three."),
        ("count", "One, two, three, four, five. Six, seven, eight, nine, ten."),
        ("count to one thousand", "That is too far for me. I count 100 numbers at most."),
        ("spell the word river", "River is spelled R, I, V, E, R."),
        ("how do you spell cat", "Cat is spelled C, A, T."),
        ("repeat after me good morning everybody", "Good morning everybody."),
        ("Repeat after me: what time is it?", "What time is it?"),
        ("say hello world", "Hello world."),
        ("what is twelve plus thirty", "Twelve plus thirty is forty-two."),
        ("twenty five minus seven", "Twenty-five minus seven is eighteen."),
        ("subtract three from ten", "Ten minus three is seven."),
        ("add 7 and 8", "Seven plus eight is fifteen."),
        ("three minus five", "Three minus five is minus two."),
        ("six times seven", "Six times seven is forty-two."),
        ("my name is anna", "Nice to meet you, Anna. I will remember your name."),
        ("what is my name", "You have not told me your name yet. Say: my name is, and then your name."),
        ("thank you", "You are welcome."),
        ("goodbye", "Goodbye. It was nice talking to you."),
        ("stop", "Okay, I stopped."),
        ("", "I did not hear anything. Please say that again."),
        ("the cat sat", "I heard: the cat sat. Ask me for the time, a story, or to count to ten."),
    ],
)
def test_replies(text: str, reply: str) -> None:
    assert ask(text) == reply


@pytest.mark.parametrize(
    "text", ["who are you", "what are you", "are you a real person", "what is your name"]
)
def test_it_says_what_it_is(text: str) -> None:
    assert INTRODUCTION in ask(text)


@pytest.mark.parametrize("text", ["hello", "what time is it", "tell me a story", "who are you", "xyz"])
def test_the_first_reply_says_it_once(text: str) -> None:
    assert ask(text, before=[]).count(INTRODUCTION) == 1
    assert ask(text, before=[("system", "Be brief.")]).count(INTRODUCTION) == 1


def test_it_remembers_a_name_across_turns() -> None:
    before = [*TALKED, ("user", "my name is bob"), ("assistant", "Nice to meet you, Bob.")]
    assert ask("do you remember my name", before) == "Your name is Bob."
    before += [("user", "no my name's anna"), ("assistant", "Nice to meet you, Anna.")]
    assert ask("what's my name", before) == "Your name is Anna."


def test_it_repeats_its_last_words() -> None:
    assert ask("can you repeat that", [("user", "hi"), ("assistant", "Hello there.")]) == "Hello there."


def test_the_story_lasts_a_minute_at_any_usual_rate() -> None:
    assert STORY in ask("tell me along story")
    assert len(STORY.split()) / 200 >= 1.9  # minutes at 200 words a minute, faster than any of our voices


def test_an_interruption_is_acknowledged_and_the_story_goes_on() -> None:
    history = History("", 8)
    history.user("tell me a story")
    history.assistant(f"Here is a story. {STORY[:300]}", interrupted=True)
    history.user("what time is it")
    messages = [(message.role, message.content) for message in history.messages()]
    assert messages[-1][1].startswith(INTERRUPTED_NOTE)
    assert reply_to(messages, NOW) == "Okay. It is two oh five in the afternoon."
    history.assistant("Okay. It is two oh five in the afternoon.")
    history.user("go on")
    rest = reply_to([(message.role, message.content) for message in history.messages()], NOW)
    assert rest.startswith("Where was I? ")
    assert STORY.endswith(rest.removeprefix("Where was I? "))
    assert STORY.rfind(". ", 0, 300) + 2 == len(STORY) - len(rest.removeprefix("Where was I? "))


def test_words_after_an_unheard_reply_come_first() -> None:
    assert ask("tell me a story\nwhat time is it") == "It is two oh five in the afternoon."
    assert "There was once" in ask("tell me a story\nplease now")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("one two three", [1, 2, 3]),
        ("twenty five", [25]),
        ("twenty-five and 7", [25, 7]),
        ("one hundred and five", [105]),
        ("two hundred thirty", [230]),
        ("two hundred thirty four", [234]),
        ("from one to ten", [1, 10]),
        ("five five", [5, 5]),
        ("1,200 and -3", [1200, -3]),
        ("99999999999", []),
        ("hundred", [100]),
    ],
)
def test_read_numbers(text: str, numbers: list[int]) -> None:
    assert read_numbers(text.split()) == numbers


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 999))
def test_numbers_said_are_numbers_read(value: int) -> None:
    assert read_numbers(say_number(value).split()) == [value]


@pytest.mark.parametrize(
    ("hour", "minute", "said"),
    [
        (0, 0, "twelve o'clock at night"),
        (9, 7, "nine oh seven in the morning"),
        (12, 30, "twelve thirty in the afternoon"),
        (18, 45, "six forty-five in the evening"),
        (23, 59, "eleven fifty-nine at night"),
    ],
)
def test_say_time(hour: int, minute: int, said: str) -> None:
    assert say_time(datetime(2026, 1, 1, hour, minute)) == said


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=30)), max_size=6
    )
)
def test_there_is_always_something_to_say(messages: list[tuple[str, str]]) -> None:
    assert reply_to(messages, NOW).strip()
