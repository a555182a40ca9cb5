"""Where a recording without pauses is cut: recognisers work off a passage's end at once, and long ones cost much."""

from __future__ import annotations

import numpy as np

from gateway.listen.asr import RATE

_WISHED_S = 20.0
"""A passage this long is cut at the next quiet moment."""
_LONGEST_S = 30.0
"""At this length at the quietest moment there is."""
_BLOCK = RATE // 20
"""Samples of a moment."""
_QUIET = 10 ** (-20 / 10)
"""Power of a quiet moment, of that of the piece around it."""


class Cuts:
    """Of one recording."""

    def __init__(self) -> None:
        self._given_s = self._passage_from_s = 0.0

    def ended(self, at_s: float) -> None:
        """The service ended a passage, this far into the recording; 0: it does not say where."""
        self._passage_from_s = max(self._passage_from_s, at_s or self._given_s)

    def split(self, pcm: bytes) -> tuple[bytes, bytes]:
        """(what ends the passage, the rest) of the next piece, PCM16; the first is empty where nothing ends."""
        before_s = self._given_s
        self._given_s += len(pcm) / (2 * RATE)
        length_s = self._given_s - self._passage_from_s
        if length_s < _WISHED_S or len(pcm) < 4 * _BLOCK:
            return b"", pcm
        samples = np.frombuffer(pcm, "<i2", len(pcm) // 2).astype(np.float32)
        blocks = samples[: samples.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
        powers = np.einsum("ij,ij->i", blocks, blocks) / _BLOCK
        quietest = int(powers.argmin())
        if length_s < _LONGEST_S and powers[quietest] > _QUIET * max(float(powers.mean()), 1.0):
            return b"", pcm
        at = (quietest * _BLOCK + _BLOCK // 2) * 2
        self._passage_from_s = before_s + at / (2 * RATE)
        return pcm[:at], pcm[at:]
