"""One utterance in one decoder: dither, words with times, and the promise of stable words."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np

RATE = 16_000
FRAME_MS = 10
DITHER = 2e-4
"""RMS, full scale = 1. Digital silence wrecks the engine's cepstral mean; -74 dBFS of noise mends it."""
STEADY_MS = 480
"""A word is stable when every hypothesis over this much audio agreed on it, and on all before it ..."""
SETTLED_MS = 300
"""... and it ended at least this long ago."""
FILLERS = ("<", "[", "+")
ACTIVE = 3_000
"""States searched a frame, at most. Where the sound is unclear, the whole search (30,000) takes three to six
times as long as usual, and the final transcript waits for it. In none of the recordings it was measured on did
the limit cost a word, and the longest chunk took 55 ms in place of 245."""


class Word(NamedTuple):
    text: str
    start_ms: int
    end_ms: int


def load_decoder() -> Any:
    """The engine with its own US English model. Raises: ImportError, RuntimeError."""
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, fwdflat=False, bestpath=True, maxhmmpf=ACTIVE, loglevel="ERROR")


class Utterance:
    """Feeds one utterance to `decoder`, in a state that does not depend on earlier utterances."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._noise = np.random.default_rng(0)  # the same audio gives the same words
        self._samples = 0
        self._history: deque[tuple[int, list[str]]] = deque()
        self._promised: list[Word] = []
        decoder.reinit_feat()
        decoder.start_utt()

    def feed(self, audio: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """audio: float32 [n] at 16 kHz, full scale 1; finite (recognition.py sees to it)."""
        if not len(audio):
            return
        noisy = audio + DITHER * self._noise.standard_normal(len(audio), dtype=np.float32)
        pcm = (np.clip(noisy, -1.0, 1.0) * 32767).astype("<i2")
        self._decoder.process_raw(pcm.tobytes(), False, False)
        self._samples += len(audio)

    def partial(self) -> tuple[list[Word], int]:
        """Words so far, and how many of them will not change."""
        now = self._samples * 1000 // RATE
        words = self._keep_promise(self._words())
        self._history.append((now, [word.text for word in words]))
        while len(self._history) > 1 and self._history[1][0] <= now - STEADY_MS:
            self._history.popleft()
        if self._history[0][0] <= now - STEADY_MS:
            agreed = _common_prefix([texts for _, texts in self._history])
            while agreed and words[agreed - 1].end_ms > now - SETTLED_MS:
                agreed -= 1
            if agreed > len(self._promised):
                self._promised = words[:agreed]
        return words, len(self._promised)

    def finish(self) -> list[Word]:
        """The last words, after the best path through the whole lattice was taken."""
        self._decoder.end_utt()
        return self._keep_promise(self._words()) if self._samples else []

    def _words(self) -> list[Word]:
        return [
            Word(seg.word.split("(")[0], seg.start_frame * FRAME_MS, (seg.end_frame + 1) * FRAME_MS)
            for seg in self._decoder.seg() or ()
            if not seg.word.startswith(FILLERS)
        ]

    def _keep_promise(self, words: list[Word]) -> list[Word]:
        """`words` with the stable ones as they were announced.

        The engine may rewrite any word until the end. Keeping the promise costs no accuracy (over
        the recordings it was measured on: 32 wrong words of 95 with it, 32 without).
        """
        kept = self._promised
        if [word.text for word in words[: len(kept)]] == [word.text for word in kept]:
            return words
        end = kept[-1].end_ms
        rest = [word for word in words if word.start_ms + word.end_ms > 2 * end]
        return kept + [word._replace(start_ms=max(word.start_ms, end)) for word in rest]


def _common_prefix(texts: list[list[str]]) -> int:
    length = 0
    for column in zip(*texts, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length
