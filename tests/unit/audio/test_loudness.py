"""The leveler reaches its target, holds it, and never clips."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gateway.audio.loudness import Leveler
from gateway.audio.pcm import rms_dbfs

RATE = 16_000


def speech_like(level_dbfs: float, seconds: float = 6.0) -> npt.NDArray[np.float32]:
    """Noise in syllables (4 Hz) with pauses of 0.5 s every 2 s."""
    t = np.arange(int(RATE * seconds)) / RATE
    x = np.random.default_rng(2).standard_normal(len(t)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    x[(t % 2) > 1.5] = 0
    voiced = x[(t % 2) <= 1.5]
    return np.asarray(x / np.sqrt(np.mean(voiced**2)) * 10 ** (level_dbfs / 20), np.float32)


def levelled(x: npt.NDArray[np.float32], chunk_ms: int = 20) -> npt.NDArray[np.float32]:
    leveler = Leveler(RATE, -20)
    step = RATE * chunk_ms // 1000
    return np.concatenate([leveler.process(x[k : k + step]) for k in range(0, len(x), step)])


def voiced_dbfs(x: npt.NDArray[np.float32]) -> float:
    t = np.arange(len(x)) / RATE
    return rms_dbfs(x[(t % 2) <= 1.5])


@pytest.mark.parametrize("level", [-36.0, -30.0, -20.0, -12.0])
@pytest.mark.parametrize("chunk_ms", [20, 160])
def test_reaches_the_target(level: float, chunk_ms: int) -> None:
    out = levelled(speech_like(level), chunk_ms)
    assert voiced_dbfs(out[4 * RATE :]) == pytest.approx(-20, abs=1.5)


def test_does_not_pump() -> None:
    leveler = Leveler(RATE, -20)
    gains = []
    x = speech_like(-30, 12)
    for k in range(0, len(x), 320):
        leveler.process(x[k : k + 320])
        gains.append(leveler.gain_db)
    settled = gains[200:]
    assert max(settled) - min(settled) < 1.0


def test_never_clips_and_keeps_length() -> None:
    x = speech_like(-3)
    out = levelled(x)
    assert len(out) == len(x)
    assert float(np.abs(out).max()) < 1.0


def test_no_latency_and_silence_stays_silent() -> None:
    leveler = Leveler(RATE, -20)
    assert not leveler.process(np.zeros(320, np.float32)).any()
    click = np.zeros(320, np.float32)
    click[7] = 0.1
    assert int(np.argmax(np.abs(leveler.process(click)))) == 7


def test_int16_and_bad_floats() -> None:
    leveler = Leveler(RATE, -20)
    out = leveler.process((speech_like(-20, 0.1) * 32767).astype(np.int16))
    assert out.dtype == np.int16
    assert np.isfinite(leveler.process(np.full(320, np.nan, np.float32))).all()
    assert leveler.process(np.zeros(0, np.float32)).size == 0


def test_a_peak_is_ducked_at_once_and_the_gain_comes_back() -> None:
    leveler = Leveler(RATE, -20)
    calm = speech_like(-26, 4.0)
    leveler.process(calm)
    settled = leveler.gain_db
    click = np.zeros(320, np.float32)
    click[100:120] = 0.95
    assert float(np.abs(leveler.process(click)).max()) < 1.0
    quiet = np.full(16_000, 0.01, np.float32)
    out = leveler.process(quiet) / 0.01
    assert out[0] < 0.8 * out[-1]
    assert 20 * np.log10(out[-1]) == pytest.approx(settled, abs=1.5)


def test_how_samples_are_written_changes_nothing() -> None:
    floats, integers = Leveler(RATE, -20), Leveler(RATE, -20)
    x = np.asarray(np.rint(speech_like(-24, 3.0) * 32768), np.int16)
    for k in range(0, len(x), 5_000):
        part = x[k : k + 5_000]
        as_float = floats.process(part.astype(np.float32) / np.float32(32768))
        assert np.abs(as_float * 32768 - integers.process(part)).max() <= 1


def test_what_is_given_is_not_written_on() -> None:
    x = speech_like(-30, 0.1)
    kept = x.copy()
    Leveler(RATE, -20).process(x)
    np.testing.assert_array_equal(x, kept)
