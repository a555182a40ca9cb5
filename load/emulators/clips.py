"""Recordings that a stand-in recogniser knows by heart.

Callers that play recordings say nothing that a stand-in could understand. Where it is given the same
recordings, it finds them bit for bit in what it hears, and then its words come and pause as theirs do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from load.emulators.distributions import BadProfile

RATE = 16_000
_BLOCK = RATE // 50
_KEY = 16
_STEP = 32
_MOST_PLACES = 8
"""Under one key: silence looks the same everywhere."""
_PAUSE = 10**-2.5
"""Power, relative to the loud parts, of a pause within a recording."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording, 16 kHz."""

    pcm: bytes
    """PCM16, little endian."""
    words: tuple[str, ...]
    word_ends_ms: tuple[float, ...]
    """From the beginning of the recording, in order."""


class Clips:
    """The recordings of one manifest.

    Every `_STEP`th sample of them is in an index under the `_KEY` bytes that begin there; of a piece of
    sound, `_STEP` neighbouring places are looked up, one of which must be there.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._index: dict[bytes, list[tuple[Clip, int]]] = {}
        for clip in clips:
            for at in range(0, len(clip.pcm) - _KEY, 2 * _STEP):
                places = self._index.setdefault(clip.pcm[at : at + _KEY], [])
                if len(places) < _MOST_PLACES:
                    places.append((clip, at))

    def find(self, pcm: bytes) -> tuple[Clip, float] | None:
        """The recording that holds these samples, and where in it they begin (ms)."""
        for offset in range(0, min(2 * _STEP, len(pcm) - _KEY), 2):
            for clip, at in self._index.get(pcm[offset : offset + _KEY], ()):
                start = at - offset
                if start >= 0 and clip.pcm.startswith(pcm, start):
                    return clip, start / 2 * 1000 / RATE
        return None


def read_clips(manifest: str, transcripts: Sequence[str]) -> Clips:
    """manifest: JSON, a list of {"file": raw PCM16 at 16 kHz, "onset_ms", "end_ms"} with "text" or
    "words": [[word, start_ms, end_ms], …] where known; the others get `transcripts` in turn.

    Raises: BadProfile.
    """
    path = Path(manifest)
    try:
        entries = json.loads(path.read_text("utf-8"))
        if not isinstance(entries, list) or not entries:
            raise ValueError("no list")
        return Clips(
            [
                _clip(path.parent, entry, transcripts[number % len(transcripts)])
                for number, entry in enumerate(entries)
            ]
        )
    except OSError as error:
        raise BadProfile(f"asr.clips: {error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadProfile(
            f"asr.clips: {path} must be a JSON list of objects with file, onset_ms and end_ms ({error!r})"
        ) from None


def _clip(folder: Path, entry: dict[str, Any], otherwise: str) -> Clip:
    pcm = (folder / str(entry["file"])).read_bytes()
    if "words" in entry:
        words = [(str(word), float(end)) for word, _, end in entry["words"]]
        return Clip(pcm, tuple(word for word, _ in words), tuple(end for _, end in words))
    texts = str(entry.get("text") or otherwise).split()
    ends = _spread(texts, pcm, float(entry["onset_ms"]), float(entry["end_ms"]))
    return Clip(pcm, tuple(texts), ends)


def _spread(words: Sequence[str], pcm: bytes, onset_ms: float, end_ms: float) -> tuple[float, ...]:
    """Ends of the words, spread by their letters over the loud parts between onset and end."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32)
    blocks = samples[: len(samples) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    power = (blocks**2).mean(axis=1)
    starts_ms = np.arange(len(power)) * 20.0
    within = (starts_ms + 20 > onset_ms) & (starts_ms < end_ms)
    if not within.any():
        raise ValueError("a recording without speech between onset_ms and end_ms")
    loud = within & (power > np.percentile(power[within], 90) * _PAUSE)
    ends_ms = starts_ms[loud] + 20
    letters = np.cumsum([len(word) + 1 for word in words])
    marks = np.ceil(letters / letters[-1] * len(ends_ms)).astype(int) - 1
    ends = np.minimum(ends_ms[marks], end_ms)
    ends[-1] = end_ms
    return tuple(float(end) for end in ends)
