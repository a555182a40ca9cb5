"""From an LLM's text to a codec's codes: every token has its place in a frame, and says which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
SPECIAL = re.compile(r"<\|[^<>]{0,40}\|>|<custom_token_\d+>")
"""What would be read as the model's own marks, were it in a text: taken out."""
MOST_HELD = 4096
"""Characters without a whole token that are kept."""


class CodecTokens:
    """One answer of the LLM, read piece by piece.

    Token number `first + place * codebook_size + code` stands for `code` at `place` of its frame. Numbers below
    `first` are the model's own marks. A token at another place than the next is a slip of the model's: its
    frame is dropped, and reading goes on with the next frame.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """settings: front.json's "tokens": pattern, first, codebook_size, order."""
        self._pattern = re.compile(settings["pattern"])
        self._first, self._size = int(settings["first"]), int(settings["codebook_size"])
        self._order = np.array(settings["order"], np.int64)
        self._text = ""
        self._frame: list[int] = []
        self.frames = 0
        self.dropped = 0
        """Frames lost to slips."""

    def read(self, texts: list[str]) -> Codes:
        """[rows, frames] of all frames that are whole by now."""
        self._text += "".join(texts)
        frames, at = [], 0
        for found in self._pattern.finditer(self._text):
            at = found.end()
            whole = self._take(int(found.group(1)) - self._first)
            if whole is not None:
                frames.append(whole)
        self._text = self._text[at:][-MOST_HELD:]
        self.frames += len(frames)
        if not frames:
            return np.zeros((len(self._order), 0), np.int64)
        return np.ascontiguousarray(np.array(frames, np.int64)[:, self._order].T)

    def _take(self, number: int) -> list[int] | None:
        if number < 0:
            return None
        place, code = divmod(number, self._size)
        if place != len(self._frame):
            self.dropped += bool(self._frame)
            self._frame = []
            if place:
                return None
        self._frame.append(code)
        if len(self._frame) < len(self._order):
            return None
        whole, self._frame = self._frame, []
        return whole


def without_marks(text: str) -> str:
    """A text in which nothing can be taken for the model's own marks."""
    return SPECIAL.sub(" ", text)
