"""The user's speech: recordings where they are at hand, else a synthetic voice; and where it truly ends.

The rule of ends: a clip's speech begins with the first and ends with the last 50 ms in which every 10 ms
frame lies within 25 dB of the clip's loudest one. Breath, room, clicks and tape noise do not get there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.audio.pcm import Int16, to_int16
from gateway.audio.resample import resample
from gateway.cli.wav import read_speech
from gateway.settings import TtsSettings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import TtsError

RATE = 16_000
FOLDER = Path(__file__).parents[2] / "shared" / "audio"
"""Recordings with transcripts.json beside the checkout; not part of it."""
_FRAME = RATE // 100
_WITHIN_DB = 25.0
_RUN = 5
_SYNTHETIC = {
    "hello": "hello there. what can you do for me?",
    "name": "my name is mary",
    "time": "what time is it?",
    "story": "i want to hear a long story",
    "remember": "do you remember my name?",
    "goodbye": "goodbye",
}
_VOICES = ("rms", "en-us")


@dataclass(frozen=True, slots=True)
class Clip:
    name: str
    samples: Int16
    """[n] at 16 kHz."""
    text: str
    """What is said; empty when not known."""
    onset_s: float
    end_s: float
    """Of the speech, by the rule of ends; from the start of the clip."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def clip(name: str, samples: Int16, text: str = "") -> Clip:
    onset, end = bounds(samples)
    return Clip(name, samples, text, onset, end)


def levels_db(samples: Int16) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of 10 ms frames, relative to full scale."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64) / 32768
    return np.asarray(10 * np.log10((frames**2).mean(axis=1) + 1e-12))


def bounds(samples: Int16) -> tuple[float, float]:
    """(onset, end) of the speech, s, by the rule of ends. Raises ValueError without a whole frame."""
    levels = levels_db(samples)
    if not levels.size:
        raise ValueError("the clip is shorter than 10 ms")
    loud = levels > levels.max() - _WITHIN_DB
    runs = np.flatnonzero(np.convolve(loud, np.ones(_RUN), "valid") >= _RUN)
    first, last = (runs[0], runs[-1] + _RUN) if runs.size else (np.argmax(levels), np.argmax(levels) + 1)
    return float(first) / 100, float(last) / 100


def recordings(language: str = "en-US", folder: Path = FOLDER) -> list[Clip]:
    """Those with a transcript in the language, by name; empty when they are not here."""
    try:
        known = json.loads((folder / "transcripts.json").read_text())
    except OSError:
        return []
    return [
        clip(name, read_speech(folder / name, RATE), about["text"])
        for name, about in sorted(known.items())
        if about["text"] and about["language"] == language
    ]


async def synthetic(triton: str) -> list[Clip]:
    """Lines spoken by the user's voice of the demo. Raises TtsError."""
    synthesizer = TritonSynthesizer(TtsSettings(uri=triton))
    try:
        for voice in _VOICES:
            try:
                return [
                    clip(f"{voice}-{name}", await _speak(synthesizer, voice, text), text)
                    for name, text in _SYNTHETIC.items()
                ]
            except TtsError:
                if voice == _VOICES[-1]:
                    raise
    finally:
        await synthesizer.close()
    raise AssertionError("the loop returns or raises")


async def speech(triton: str) -> tuple[list[Clip], str]:
    """The clips to speak, and what they are, for the report."""
    found = recordings()
    if found:
        return found, f"{len(found)} recordings of people, {sum(c.seconds for c in found):.0f} s"
    made = await synthetic(triton)
    return made, f"{len(made)} lines of the synthetic voice {made[0].name.rpartition('-')[0]}"


async def _speak(synthesizer: TritonSynthesizer, voice: str, words: str) -> Int16:
    pieces, rate = [], 0
    async for chunk in synthesizer.synthesize(words, voice=voice):
        pieces.append(chunk.pcm)
        rate = chunk.rate
    return resample(to_int16(b"".join(pieces)), rate, RATE)
