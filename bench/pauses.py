"""Speech with pauses: recordings cut between words where they are quiet, and joined again with a pause there.

What is cut at is a boundary between words (the recogniser's engine aligns the known text) at which the
recording falls at least 18 dB below its loudest 10 ms, as it does where people pause. The pause holds
the recording's own background.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.speech import RATE, Clip, levels_db
from gateway.audio.pcm import Int16

SHORTEST_S, LONGEST_S = 0.15, 0.6
_QUIET_DB = -18.0
_AROUND = 6
"""10 ms frames around a boundary among which the quietest is taken: alignment is no better."""
_FADE = RATE // 200
_BACKGROUND = RATE // 20


@dataclass(frozen=True, slots=True)
class Line:
    """A clip and when each of its words ends, s from its beginning."""

    clip: Clip
    words: tuple[tuple[str, float], ...]


def lines(clips: Sequence[Clip]) -> list[Line]:
    """The clips as they are. Needs pocketsphinx."""
    return [Line(clip, tuple((word, (end + 1) / 100) for word, _, end in _align(clip))) for clip in clips]


def paused(clips: Sequence[Clip], repeats: int, seed: int = 1) -> list[Line]:
    """Every clip of one utterance with a pause at each of its cuts, `repeats` times over with pauses of random
    length; in random order."""
    chance = random.Random(seed)
    made = [
        with_pause(line, at, chance.uniform(SHORTEST_S, LONGEST_S), words)
        for _ in range(repeats)
        for line in lines(clips)
        if longest_pause_s(line.clip) < SHORTEST_S * 2
        for at, words in cuts(line.clip)
    ]
    chance.shuffle(made)
    return made


def longest_pause_s(clip: Clip) -> float:
    """The longest stretch inside the speech that is quieter than 25 dB below its loudest 10 ms."""
    levels = levels_db(clip.samples)[round(clip.onset_s * 100) : round(clip.end_s * 100)]
    longest = run = 0
    for is_quiet in levels < levels.max() - 25:
        run = run + 1 if is_quiet else 0
        longest = max(longest, run)
    return longest / 100


def cuts(clip: Clip) -> list[tuple[float, str]]:
    """(s, "word|next word") of each place to cut at. Needs pocketsphinx; empty when the text does not fit."""
    words = _align(clip)
    levels = levels_db(clip.samples)
    found = []
    for (word, _, end), (follower, start, _) in itertools.pairwise(words):
        first = max(0, end - _AROUND)
        at = first + int(np.argmin(levels[first : start + _AROUND + 1]))
        is_inside = clip.onset_s < at / 100 < clip.end_s
        if levels[at] <= levels.max() + _QUIET_DB and is_inside:
            found.append((at / 100 + 0.005, f"{word}|{follower}"))
    return found


def with_pause(line: Line, at_s: float, pause_s: float, words: str) -> Line:
    """The line with a pause in it; its onset stays, its end comes later."""
    clip = line.clip
    at = round(at_s * RATE)
    before, after = clip.samples[:at].copy(), clip.samples[at:].copy()
    fade = np.linspace(0, 1, _FADE)
    before[-_FADE:] = before[-_FADE:] * fade[::-1]
    after[:_FADE] = after[:_FADE] * fade
    pause = _background(clip.samples, round(pause_s * RATE))
    samples = np.concatenate([before, pause, after])
    later_s = len(pause) / RATE
    name = f"{clip.name} {words} +{pause_s * 1000:.0f}"
    edge_s = at_s + _AROUND / 100
    return Line(
        Clip(name, samples, clip.text, clip.onset_s, clip.end_s + later_s),
        tuple((word, end if end <= edge_s else end + later_s) for word, end in line.words),
    )


def _background(samples: Int16, length: int) -> Int16:
    """The quietest 50 ms, there and back again as often as needed."""
    starts = range(0, len(samples) - _BACKGROUND, _BACKGROUND // 5)
    quietest = min(
        starts, key=lambda at: float((samples[at : at + _BACKGROUND].astype(np.float64) ** 2).sum())
    )
    piece = samples[quietest : quietest + _BACKGROUND]
    there_and_back = np.concatenate([piece, piece[::-1]])
    return np.asarray(np.resize(there_and_back, length), dtype=np.int16)


def _align(clip: Clip) -> list[tuple[str, int, int]]:
    """(word, first 10 ms frame, last one)."""
    from pocketsphinx import Decoder

    decoder: Any = Decoder(samprate=RATE, loglevel="ERROR", bestpath=False, lm=None)
    decoder.set_align_text(clip.text)
    decoder.start_utt()
    decoder.process_raw(clip.samples.tobytes(), False, True)
    decoder.end_utt()
    return [
        (segment.word.split("(")[0], segment.start_frame, segment.end_frame)
        for segment in decoder.seg() or ()
        if not segment.word.startswith(("<", "[", "+"))
    ]
