"""In place of a family's model, for tests of everything around it: syllables of a tone, a pitch to each voice."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples
from gateway.triton.models.voices import Voice

SYLLABLE_S = 0.12
SIGNS_A_SYLLABLE = 2.2
LOUDNESS = 0.155
"""Peak of -20 dBFS RMS, with the pauses between the syllables left out."""


class StandIn:
    imitates = True

    def __init__(self, folder: Folder) -> None:
        self.rate = int(folder.front["stand_in_rate"])

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        """With a reference, its strongest frequency is the pitch."""
        pitch = 110.0 + sum(map(ord, voice.name)) % 120 if reference is None else _pitch(reference)
        size = int(SYLLABLE_S * self.rate)
        envelope = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / (0.01 * self.rate))
        at = np.arange(size) / self.rate
        for number in range(max(1, round(len(text) / SIGNS_A_SYLLABLE))):
            sign = ord(text[min(len(text) - 1, int(number * SIGNS_A_SYLLABLE))]) % 32
            tone = np.sin(2 * np.pi * pitch * (1 + sign / 64) * at)
            level = LOUDNESS * (0.8 + sign / 80)
            yield (level * envelope * tone).astype(np.float32)


def _pitch(reference: Samples) -> float:
    strength = np.abs(np.fft.rfft(reference * np.hanning(len(reference))))
    return float(np.clip(np.argmax(strength) * 16_000 / len(reference), 60, 1000))


def load(folder: Folder) -> StandIn:
    return StandIn(folder)
