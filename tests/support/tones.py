"""What a frame sounds like: the pitch that `tts_tone` gave its text, so that stale audio is heard, not read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from gateway.session.events import ReplyAudio

_SILENT = 200
"""Peak of PCM16 below which a frame is silence."""
_SAME_HZ = 20.0


def tone_of(text: str) -> int:
    """Hz that the model `tts_tone` speaks a text with."""
    number = re.search(r"\d+", text)
    return int(number[0]) if number else 400 + 50 * (zlib.crc32(text.encode()) % 40)


def pitch_of(pcm: bytes, rate: int) -> float:
    """Hz of the loudest tone of a frame (PCM16 at `rate`); 0 for silence."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    if np.abs(samples).max(initial=0) < _SILENT:
        return 0.0
    size = 16 * samples.size
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size), size))
    return float(np.argmax(spectrum)) * rate / size


def tones_in(frames: Iterable[ReplyAudio], known: Sequence[int], rate: int) -> list[int]:
    """Which of the known tones were heard, each once, in the order they were first heard.

    A tone that is none of them is returned rounded: it is somebody else's. Frames in which a tone sets
    in or fades out are smeared; one alone, beside a frame of a known tone, counts as that tone.
    """
    heard: list[int] = []
    pitches = [pitch for frame in frames if (pitch := pitch_of(frame.pcm, rate))]
    for number, pitch in enumerate(pitches):
        tone = _nearest(pitch, known)
        if tone is None:
            beside = pitches[max(0, number - 1) : number] + pitches[number + 1 : number + 2]
            if any(_nearest(other, known) is not None for other in beside):
                continue
            tone = round(pitch)
        if tone not in heard:
            heard.append(tone)
    return heard


def _nearest(pitch: float, known: Sequence[int]) -> int | None:
    return next((tone for tone in known if abs(tone - pitch) <= _SAME_HZ), None)
