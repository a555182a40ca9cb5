"""Tokens become text and words: sentencepiece, byte-level BPE and characters. Decoding only.

tokens.json: {"kind": "sentencepiece" | "bytelevel" | "characters", "pieces": [text of id 0, of id 1, …],
"special": [ids that are never text], "bytes": whether pieces <0xNN> are single bytes (sentencepiece),
"space": the piece that stands for a space (characters)}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from gateway.triton.models.asr.engine import Word

KINDS = ("sentencepiece", "bytelevel", "characters")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACES = re.compile(r"[ \t\n\r\f\v]+")
_WORD = re.compile(rb"[^ \t\n\r\f\v]+")


class Span(NamedTuple):
    """A word and the tokens it is made of."""

    text: str
    first: int
    """Index among the ids of the token with the word's first byte."""
    last: int
    """Of the token with its last byte."""


class Pieces:
    """Raises: ValueError, in a sentence, when `told` is no tokens.json."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        kind = told.get("kind")
        if kind not in KINDS:
            raise ValueError(f"tokens of kind {kind!r} are unknown: {', '.join(KINDS)}")
        pieces = told.get("pieces")
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise ValueError("tokens.json has no list of pieces")
        self.kind: str = kind
        self.special = frozenset(int(token) for token in told.get("special", ()))
        space = told.get("space", "|")
        decoders: dict[str, Callable[[str], bytes]] = {
            "sentencepiece": _sentencepiece_bytes if told.get("bytes", True) else _sentencepiece_text,
            "bytelevel": _bytelevel,
            "characters": lambda piece: b" " if piece == space else piece.encode(),
        }
        decode = decoders[kind]
        self._bytes = [b"" if at in self.special else decode(piece) for at, piece in enumerate(pieces)]

    def __len__(self) -> int:
        return len(self._bytes)

    def text(self, ids: Iterable[int]) -> str:
        """The words with one space between them. Bytes that are no UTF-8 (a character still under way) become
        U+FFFD."""
        return spaced(b"".join(self._of(token) for token in ids).decode(errors="replace"))

    def spans(self, ids: Sequence[int]) -> list[Span]:
        """The words of `text`: what ASCII spaces divide. A word may begin within a token and end within another;
        one token may hold several words."""
        joined = bytearray()
        owners: list[int] = []
        for at, token in enumerate(ids):
            piece = self._of(token)
            joined += piece
            owners += [at] * len(piece)
        return [
            Span(match[0].decode(errors="replace"), owners[match.start()], owners[match.end() - 1])
            for match in _WORD.finditer(bytes(joined))
        ]

    def words(self, ids: Sequence[int], times: Sequence[tuple[int, int]]) -> list[Word]:
        """times: (start ms, end ms) of every token, starts in order. A word lasts from its first token's start to
        its last one's end, at most until the next word begins."""
        spans = self.spans(ids)
        begins = [times[span.first][0] for span in spans]
        ends = [times[span.last][1] for span in spans]
        nexts = [*begins[1:], *ends[-1:]]
        return [
            Word(span.text, begin, max(begin, min(end, following)))
            for span, begin, end, following in zip(spans, begins, ends, nexts, strict=True)
        ]

    def _of(self, token: int) -> bytes:
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""


def spaced(text: str) -> str:
    """Runs of ASCII spaces become one, those around the text none."""
    return " ".join(word for word in _SPACES.split(text) if word)


def _sentencepiece_text(piece: str) -> bytes:
    return piece.replace("\u2581", " ").encode()


def _sentencepiece_bytes(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else _sentencepiece_text(piece)


def _bytelevel(piece: str) -> bytes:
    known = bytelevel_alphabet()
    # A token that was added to the vocabulary is spelled in plain text.
    if any(character not in known for character in piece):
        return piece.encode()
    return bytes(known[character] for character in piece)


@cache
def bytelevel_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 characters stand for their own byte, characters from U+0100 on for the others."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}
