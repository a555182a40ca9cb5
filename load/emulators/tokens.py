"""Replies cut into tokens, about as long as those of a language model."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

_TOKEN = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")
_END = re.compile(r"[.!?。！？]")


@functools.lru_cache(maxsize=1024)
def tokens_of(text: str) -> tuple[str, ...]:
    """Joined they are the text again."""
    return tuple(_TOKEN.findall(text))


def first_sentence(tokens: Sequence[str]) -> int:
    """The number of tokens up to the first mark that ends a sentence; all where there is none."""
    for number, token in enumerate(tokens, 1):
        if _END.search(token) and (number == len(tokens) or tokens[number][:1].isspace()):
            return number
    return len(tokens)
