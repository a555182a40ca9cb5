"""What two decodes of one utterance have in common, of which the later one heard more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

LETTERS = 160
"""Of what was promised and is said otherwise now, so many of the last are looked at: the work grows with their square."""


def agreed(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words both begin with."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def continued(promised: Sequence[str], words: Sequence[str]) -> int:
    """How many leading `words` are what was promised, perhaps said otherwise: those whose letters are nearest to it.

    "I'd less" was promised, and now "Unless to be" is heard: one word, though it is two. Word times cannot tell,
    since models without them spread them evenly, and other words are spread otherwise.
    """
    mine, theirs = [_spoken(word) for word in promised], [_spoken(word) for word in words]
    same = agreed(mine, theirs)
    rest = mine[same:]
    while rest and sum(map(len, rest)) > LETTERS:
        # Word for word then, as far as that goes.
        rest, same = rest[1:], min(same + 1, len(theirs))
    ends = accumulate(map(len, theirs[same:]), initial=0)
    row = _distances("".join(rest), "".join(theirs[same:])[: 2 * LETTERS])
    reached = [(row[end], abs(count - len(rest)), count) for count, end in enumerate(ends) if end < len(row)]
    return same + min(reached)[2]


def _distances(one: str, other: str) -> list[int]:
    """Letters inserted, left out and replaced from `one` to the first 0, 1, … of `other`."""
    row = list(range(len(other) + 1))
    for at, mine in enumerate(one, start=1):
        corner, row[0] = row[0], at
        for count, theirs in enumerate(other, start=1):
            replaced = corner + (mine != theirs)
            corner = row[count]
            row[count] = min(corner + 1, row[count - 1] + 1, replaced)
    return row


def _spoken(word: str) -> str:
    """Without case and marks, which models change their mind about."""
    return "".join(sign for sign in word.casefold() if sign.isalnum()) or word
