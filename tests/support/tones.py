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
_TELLING_S = 0.005
"""Less sound than this in a frame has a pitch that is wrong by 100 Hz."""


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
    sounding = [frame.pcm for frame in frames if pitch_of(frame.pcm, rate)]
    pitches = [pitch_of(pcm, rate) for pcm in sounding]
    for number, pitch in enumerate(pitches):
        tone = _nearest(pitch, known) if _sound_s(sounding[number], rate) >= _TELLING_S else None
        if tone is None:
            beside = pitches[max(0, number - 1) : number] + pitches[number + 1 : number + 2]
            if any(_nearest(other, known) is not None for other in beside):
                continue
            tone = round(pitch)
        if tone not in heard:
            heard.append(tone)
    return heard


def _sound_s(pcm: bytes, rate: int) -> float:
    """From the first loud sample to the last."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, dtype="<i2").astype(np.int32)) >= _SILENT)
    return float(loud[-1] - loud[0] + 1) / rate if loud.size else 0.0


def _nearest(pitch: float, known: Sequence[int]) -> int | None:
    return next((tone for tone in known if abs(tone - pitch) <= _SAME_HZ), None)
