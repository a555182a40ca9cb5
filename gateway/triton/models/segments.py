"""Cutting a long text into pieces that an engine speaks one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_CHARS = 250
"""About 15 s of speech: what an engine has begun it may have to finish, and others wait for it."""
_BREAKS = (
    re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？।]\s*|\n\s*\n"),  # after a sentence
    re.compile(r"[,;:–—]\s+|[、，；：]\s*|\n"),  # after a clause
    re.compile(r"\s+"),  # between words
)


def segments(text: str, limit: int = MAX_CHARS) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters, cut at the best break; short text stays whole."""
    rest = text.strip()
    while len(rest) > limit:
        cut = _cut(rest, limit)
        yield rest[:cut].strip()
        rest = rest[cut:].strip()
    if rest:
        yield rest


def _cut(text: str, limit: int) -> int:
    for pattern in _BREAKS:
        ends = [found.end() for found in pattern.finditer(text, 0, limit)]
        if ends and ends[-1] > limit // 4:
            return ends[-1]
    return limit
