"""Model audio to client audio: same length, level at the target, no seam."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio.pcm import Int16, to_int16
from gateway.speak.shaping import Shaper
from gateway.speak.tts import Chunk

RATE = 22_050


def voice(seconds: float, level: float = 0.05) -> Int16:
    t = np.arange(int(RATE * seconds)) / RATE
    tone = np.sin(2 * np.pi * (200 * t + 100 * t * t)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    return np.asarray(tone * level * 32767, np.int16)


def shaped(samples: Int16, rate: int, chunk: int = 1_764) -> Int16:
    shaper = Shaper(rate, -20.0)
    parts = [
        shaper.push(Chunk(samples[k : k + chunk].tobytes(), RATE)) for k in range(0, len(samples), chunk)
    ]
    parts.append(shaper.finish())
    shaper.close()
    return to_int16(b"".join(parts))


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_the_length_is_kept_at_every_rate(rate: int) -> None:
    assert abs(len(shaped(voice(2.0), rate)) / rate - 2.0) < 0.004


def test_level_is_brought_to_the_target() -> None:
    out = shaped(voice(4.0, level=0.02), 48_000)
    rms = np.sqrt(np.mean((out[len(out) // 2 :] / 32768.0) ** 2))
    assert -23 < 20 * np.log10(rms) < -18


def test_sentences_of_different_rates_follow_each_other() -> None:
    shaper = Shaper(24_000, -20.0)
    total = b""
    for rate in (22_050, 44_100, 22_050):
        t = np.arange(rate // 2) / rate
        tone = np.asarray(np.sin(2 * np.pi * 300 * t) * 3000, np.int16)
        total += shaper.push(Chunk(tone.tobytes(), rate))
    total += shaper.finish()
    assert abs(len(total) / 48_000 - 1.5) < 0.012
    shaper.close()
    assert shaper.finish() == b""


def test_a_borrowed_resampler_remembers_nothing_of_its_last_user() -> None:
    loud = voice(0.3, level=0.9)
    shaper = Shaper(48_000, -20.0)
    shaper.push(Chunk(loud.tobytes(), RATE))  # cut off here, as a cancelled reply is
    shaper.close()
    again = Shaper(48_000, -20.0)
    first = again.push(Chunk(bytes(2_000), RATE))
    assert first
    assert not np.any(to_int16(first))
