"""Cutting a long text into pieces that an engine speaks one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_CHARS = 250
"""About 15 s of speech: what an engine has begun it may have to finish, and others wait for it."""
FIRST_CHARS = 100
"""The first piece of a long text is shorter, where it has a break: the first audio waits for all of it."""
_BREAKS = (
    re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？।]\s*|\n\s*\n"),  # after a sentence
    re.compile(r"[,;:–—]\s+|[、，；：]\s*|\n"),  # after a clause
    re.compile(r"\s+"),  # between words
)


def segments(text: str, limit: int = MAX_CHARS, first: int = FIRST_CHARS) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters, cut at the best break; short text stays whole."""
    rest = text.strip()
    if len(rest) > limit:
        cut = _cut(rest, min(first, limit), _BREAKS[:2])
        if cut:
            yield rest[:cut].strip()
            rest = rest[cut:].strip()
    while len(rest) > limit:
        cut = _cut(rest, limit, _BREAKS) or limit
        yield rest[:cut].strip()
        rest = rest[cut:].strip()
    if rest:
        yield rest


def _cut(text: str, limit: int, breaks: tuple[re.Pattern[str], ...]) -> int:
    """Where to cut within the first `limit` characters; 0: no break far enough in."""
    for pattern in breaks:
        ends = [found.end() for found in pattern.finditer(text, 0, limit)]
        if ends and ends[-1] > limit // 4:
            return ends[-1]
    return 0
