"""What the stand-in answers: keywords, no intelligence. Transcripts come from weak recognisers, so it forgives a lot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.think.history import INTERRUPTED_NOTE
from gateway.think.stand_in_numbers import read_numbers, say_date, say_number, say_time
from gateway.think.stand_in_story import STORY

INTRODUCTION = "I am Parley's stand-in, not a real language model."
"""Opens the first reply of every conversation."""
_ABILITIES = (
    "I can tell the time and the date, count, add, spell a word, repeat after you, remember your name, "
    "and tell a long story that you may interrupt."
)
_MAX_COUNT = 100
_MAX_ECHO_WORDS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the answers see it."""

    text: str
    """The user's words, one line."""
    words: list[str]
    """The same, lower case, without punctuation."""
    before: Sequence[tuple[str, str]]
    """(role, text) of everything said before, oldest first."""
    now: datetime

    def has(self, *any_of: str) -> bool:
        return any(word in self.words for word in any_of)

    def find(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, " ".join(self.words))


def reply_to(messages: Sequence[tuple[str, str]], now: datetime) -> str:
    """The reply to a conversation of (role, text), oldest first."""
    last = max((i for i, (role, _) in enumerate(messages) if role == "user"), default=-1)
    if last < 0:
        return f"{INTRODUCTION} {_ABILITIES}"
    before = messages[:last]
    said = [text for role, text in before if role == "assistant" and text]
    text, noted = _without_note(messages[last][1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    answer = ""
    # the newest words count; what an unheard reply left before them helps only if they say nothing
    for line in [*lines[-1:], " ".join(lines)]:
        answer = answer or _answer(Asked(line, _words(line), before, now))
    if not answer:
        answer = _fallback(" ".join(lines))
    if not said:
        return answer if INTRODUCTION in answer else f"{INTRODUCTION} {answer}"
    interrupted = noted or said[-1].endswith("…")
    return f"Okay. {answer}" if interrupted and not answer.startswith("Okay") else answer


def _answer(asked: Asked) -> str:
    for respond in _RESPONDERS:
        if answer := respond(asked):
            return answer
    return ""


def _repeat(asked: Asked) -> str:
    match = re.search(
        r"\brepeats?\b(?:\s+after\s+me|\s+(?:this|the words?|the sentence))?[\s:,]*(.*)",
        asked.text,
        re.I | re.S,
    ) or re.match(r"\W*(?:(?:please|now|can you|could you)\s+)*say\b[\s:,]+(.*)", asked.text, re.I | re.S)
    if not match:
        return ""
    words = match.group(1).strip(" \"'“”").split()
    if not words or " ".join(words).lower().rstrip(".?!") in ("that", "it", "that again", "it again", "again", "yourself", "please"):  # fmt: skip
        said = [text for role, text in asked.before if role == "assistant" and text]
        return said[-1] if said else "There is nothing to repeat yet."
    return _sentence(" ".join(words[:_MAX_ECHO_WORDS]))


def _name(asked: Asked) -> str:
    if asked.find(r"\b(what|what's|whats|who|remember|know|tell|say)\b.*\bmy name\b|\bwho am i\b"):
        for role, text in reversed(asked.before):
            if role == "user" and (name := _name_in(_without_note(text)[0])):
                return f"Your name is {name}."
        return "You have not told me your name yet. Say: my name is, and then your name."
    if name := _name_in(asked.text):
        return f"Nice to meet you, {name}. I will remember your name."
    return ""


def _name_in(text: str) -> str:
    match = re.search(r"\b(?:my names?(?: is|'s| was)?|call me|i am called)\s+([^\W\d_][\w'-]*)", text, re.I)
    if not match or match.group(1).lower() in ("is", "the", "what", "a", "and", "it", "not", "later", "back"):
        return ""
    return match.group(1).capitalize()


def _spell(asked: Asked) -> str:
    match = asked.find(r"\bspell(?:ed|s|ing)?\b(?: (?:the|a|word|name|me|my|for|please|out))* (\S+)")
    if not match:
        return "Say: spell, and then a word." if asked.has("spell") else ""
    letters = [letter.upper() for letter in match.group(1) if letter.isalnum()]
    return f"{match.group(1).capitalize()} is spelled {', '.join(letters)}."


def _story(asked: Asked) -> str:
    if asked.has("story", "stories", "storey", "tale"):
        return f"Here is a story. {STORY}"
    if asked.find(r"\b(go on|goes on|going|continue|carry on|the rest|what happened (?:then|next))\b"):
        for role, text in reversed(asked.before):
            if role == "assistant" and (rest := _rest_of_story(text)):
                return f"Where was I? {rest}"
    return ""


def _rest_of_story(heard: str) -> str:
    """The story from the sentence in which `heard` ends."""
    end = heard.rstrip("… .")[-30:]
    at = STORY.find(end) if len(end) == 30 else -1
    return STORY[STORY.rfind(". ", 0, at + len(end)) + 2 :] if at >= 0 else ""


def _count(asked: Asked) -> str:
    if not asked.has("count", "counts", "counting", "counted"):
        return ""
    numbers = read_numbers(asked.words) or [10]
    # "one to five" is often heard as "one two five": the outer two count
    first, last = (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[-1])
    if len(numbers) == 1 and asked.has("down", "backwards", "backward"):
        first, last = last, first
    if abs(last - first) >= _MAX_COUNT:
        return f"That is too far for me. I count {_MAX_COUNT} numbers at most."
    step = 1 if last >= first else -1
    counted = [say_number(number) for number in range(first, last + step, step)]
    groups = [counted[at : at + 5] for at in range(0, len(counted), 5)]
    return " ".join(_sentence(", ".join(group)) for group in groups)


def _calculate(asked: Asked) -> str:
    numbers = read_numbers(asked.words)
    if len(numbers) < 2:
        return ""
    first, second = numbers[0], numbers[-1]
    if asked.has("subtract"):
        first, second = (second, first) if asked.has("from") else (first, second)
        result, sign = first - second, "minus"
    elif asked.has("minus", "less", "-") or asked.find(r"\btake away\b"):
        result, sign = first - second, "minus"
    elif asked.has("times", "multiply", "multiplied", "x", "*"):
        result, sign = first * second, "times"
    elif asked.has("plus", "add", "added", "sum", "+"):
        result, sign = first + second, "plus"
    else:
        return ""
    return _sentence(f"{say_number(first)} {sign} {say_number(second)} is {say_number(result)}")


def _when(asked: Asked) -> str:
    if asked.has("time", "clock") and not asked.find(r"\bupon a time\b"):
        return f"It is {say_time(asked.now)}."
    if asked.has("date") or asked.find(r"\b(what|which|what's|whats)\b.*\b(day|today)\b"):
        return f"Today is {say_date(asked.now)}."
    return ""


def _identity(asked: Asked) -> str:
    who = r"\bwho (?:are|is) (?:you|this)\b|\bwhat are you\b|\bare you (?:a |an )?(?:real|human|robot|machine|person|ai|bot)\b"
    if asked.find(who + r"|\bstand ?in\b|\byour name\b"):
        return f"{INTRODUCTION} {_ABILITIES}"
    return f"{_ABILITIES}" if asked.has("help") or asked.find(r"\bwhat can you\b") else ""


def _manners(asked: Asked) -> str:
    if asked.has("goodbye", "bye", "farewell") or asked.find(r"\bsee you\b|\bgood night\b"):
        return "Goodbye. It was nice talking to you."
    if asked.has("stop", "quiet", "silence", "enough") or asked.find(r"\bshut up\b"):
        return "Okay, I stopped."
    if asked.has("thanks", "thank"):
        return "You are welcome."
    if asked.find(r"\bhow are you\b|\bhow do you do\b"):
        return "I am fine, thank you. How are you?"
    if asked.has("hello", "hi", "hey", "greetings") or asked.find(
        r"\bgood (?:morning|afternoon|evening|day)\b"
    ):
        return "Hello. What can I do for you?"
    return ""


_RESPONDERS: tuple[Callable[[Asked], str], ...] = (
    _repeat,
    _name,
    _spell,
    _story,
    _count,
    _calculate,
    _identity,
    _when,
    _manners,
)


def _fallback(text: str) -> str:
    words = text.split()[:20]
    if not words:
        return "I did not hear anything. Please say that again."
    heard = " ".join(words).rstrip(".,;:?!")
    return f"I heard: {heard}. Ask me for the time, a story, or to count to ten."


def _without_note(text: str) -> tuple[str, bool]:
    """The user's own words, and whether a note on an interruption opened them."""
    if text.startswith(INTERRUPTED_NOTE):
        return text.removeprefix(INTERRUPTED_NOTE).strip(), True
    return text, False


def _words(text: str) -> list[str]:
    return [word.strip('.,;:?!"“”()…') for word in text.lower().replace("’", "'").split()]


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
