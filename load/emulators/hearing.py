"""What a stand-in recogniser hears: where speech is, and how many words of its script that reveals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from load.emulators.clips import RATE, Clip, Clips
from load.emulators.profile import AsrProfile

Samples = np.ndarray[Any, np.dtype[np.int16]]

_BLOCK_MS = 32
_FLOOR = float((32768 * 10 ** (-50 / 20)) ** 2)
"""Power below which nothing is speech: -50 dBFS."""
_BELOW_PEAK = 10**-2.5
"""Quieter than the loud parts by 25 dB is a pause, whatever the noise."""
_FORGET = 0.998
"""Of the peak, from block to block: a door that slams does not make all speech a pause."""
_ONSET_MS = 60.0
"""Less than this of loud audio is a click."""
_LOOKS_FOR_CLIP = 3
"""Blocks looked up before an utterance counts as none of the recordings."""


class Cue(Enum):
    """What a recogniser does after a piece of audio."""

    NOTHING = 0
    PARTIAL = 1
    END = 2
    """The utterance is over by the silence behind it."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word; ms from the start of the stream."""

    text: str
    start_ms: int
    end_ms: int


class Hearing:
    """One stream of PCM16."""

    def __init__(
        self,
        profile: AsrProfile,
        script: Callable[[], str],
        clips: Clips | None = None,
        *,
        endpoint_ms: float = 0.0,
    ) -> None:
        """script: what the next utterance says. endpoint_ms: quiet that ends an utterance; 0: none does."""
        self._profile = profile
        self._script = script
        self._clips = clips
        self._endpoint_ms = endpoint_ms
        self._peak = 0.0
        self._loud_run_ms = 0.0
        self._quiet_ms = 0.0
        self._partial_at_ms = 0.0
        self._from_ms = self._to_ms = 0.0
        self._words: Sequence[str] = ()
        self._clip: Clip | None = None
        self._clip_at_ms = 0.0
        self._first_word = 0
        self._lookups = 0
        self.at_ms = 0.0
        """Audio heard."""
        self.speaks = False
        """An utterance is under way."""
        self.settled = False
        """It has been quiet for so long that the partial is the final."""

    def feed(self, samples: Samples, rate: int) -> Iterator[Cue]:
        """Hear a piece, as far as the iterator is read: PARTIAL at most once and last; at END the
        utterance must be finished before reading on."""
        block = rate * _BLOCK_MS // 1000
        partial = False
        for start in range(0, len(samples), block):
            cue = self._hear(samples[start : start + block], rate)
            partial = cue is Cue.PARTIAL or (partial and cue is not Cue.END)
            if cue is Cue.END:
                yield cue
        if partial:
            yield Cue.PARTIAL

    def partial(self) -> tuple[str, int]:
        """The text so far, and how many of its characters will not change."""
        words = self._words[self._first_word : self._revealed()]
        text = " ".join(words)
        if self.settled or not words:
            return text, len(text)
        return text, max(0, len(text) - len(words[-1]) - 1)

    def finish(self) -> tuple[str, list[Word]]:
        """The utterance's final text with its words; a new utterance begins."""
        words = self._timed()
        self.speaks = self.settled = False
        self._loud_run_ms = 0.0
        self._words, self._clip, self._lookups, self._first_word = (), None, 0, 0
        return " ".join(word.text for word in words), words

    def _hear(self, samples: Samples, rate: int) -> Cue:
        floats = samples.astype(np.float32)
        power = float(np.dot(floats, floats)) / len(samples)
        length_ms = len(samples) * 1000 / rate
        self.at_ms += length_ms
        loud = power > _FLOOR and power > self._peak * _BELOW_PEAK
        self._peak = max(power, self._peak * _FORGET)
        if loud:
            self._quiet_ms = 0.0
            self._loud_run_ms += length_ms
            if self.speaks:
                self._to_ms = self.at_ms
            elif self._loud_run_ms >= _ONSET_MS:
                self._begin()
        else:
            self._loud_run_ms = 0.0
            self._quiet_ms += length_ms
        if not self.speaks:
            return Cue.NOTHING
        if loud and self._clips and self._clip is None and rate == RATE and self._lookups < _LOOKS_FOR_CLIP:
            self._look_up(samples, length_ms)
        return self._cue(loud, length_ms)

    def _begin(self) -> None:
        self.speaks = True
        self._from_ms, self._to_ms = self.at_ms - self._loud_run_ms, self.at_ms
        self._partial_at_ms = self._from_ms
        self._words = self._script().split()

    def _look_up(self, samples: Samples, length_ms: float) -> None:
        assert self._clips is not None
        self._lookups += 1
        found = self._clips.find(samples.tobytes())
        if found is not None:
            self._clip, at_ms = found
            self._clip_at_ms = self.at_ms - length_ms - at_ms
            self._words = self._clip.words
            self._first_word = sum(end + self._clip_at_ms <= 0 for end in self._clip.word_ends_ms)

    def _cue(self, loud: bool, length_ms: float) -> Cue:
        profile = self._profile
        if self._endpoint_ms and self._quiet_ms >= self._endpoint_ms:
            return Cue.END
        settled = self._is_settled()
        if settled != self.settled:
            self.settled = settled
            if settled:
                self._partial_at_ms = self.at_ms
                return Cue.PARTIAL
        paused = self._clip is not None and self._quiet_ms - length_ms < profile.settle_ms <= self._quiet_ms
        if paused or (loud and self.at_ms - self._partial_at_ms >= profile.partial_ms):
            self._partial_at_ms = self.at_ms
            return Cue.PARTIAL
        return Cue.NOTHING

    def _is_settled(self) -> bool:
        if self._clip is not None:
            return self._revealed() == len(self._words)
        return self.settled or self._quiet_ms >= self._profile.settle_ms

    def _revealed(self) -> int:
        """Words heard so far, the first one at once, the last one only when it has ended."""
        if self._clip is not None:
            until = self.at_ms - self._clip_at_ms - self._profile.settle_ms
            return sum(end <= until for end in self._clip.word_ends_ms)
        if self.settled:
            return len(self._words)
        seen = 1 + int((self.at_ms - self._from_ms) / self._profile.ms_per_word)
        return min(seen, max(1, len(self._words) - 1))

    def _timed(self) -> list[Word]:
        if not self.speaks:
            return []
        if self._clip is not None:
            ends = [end + self._clip_at_ms for end in self._clip.word_ends_ms]
            # The end of audio is the last moment for a word; the last 40 ms of one are not missed.
            last = sum(end - 40 <= self.at_ms for end in ends)
            first = self._first_word
            edges = [ends[first - 1] if first else self._from_ms, *ends[first:last]]
            return _words(self._words[first:last], edges)
        letters = np.cumsum([0, *(len(word) + 1 for word in self._words)])
        span = self._to_ms - self._from_ms
        return _words(self._words, [self._from_ms + span * float(n) / float(letters[-1]) for n in letters])


def _words(words: Sequence[str], edges: Sequence[float]) -> list[Word]:
    """edges: one more than words."""
    whole = [max(0, int(edge)) for edge in edges]
    return [Word(word, start, end) for word, start, end in zip(words, whole, whole[1:], strict=False)]
