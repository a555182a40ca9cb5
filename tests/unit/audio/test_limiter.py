"""The limiter: no true peak above its ceiling, nothing else changed, whatever the pieces."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio.limiter import Limiter

CEILING = -1.0
RATE = 48_000


def noise(seed: int, strength: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Band-limited to 8 kHz, as speech resampled from 16 kHz."""
    white = np.random.default_rng(seed).standard_normal(RATE)
    spectrum = np.fft.rfft(white)
    spectrum[8_000:] = 0
    shaped = np.fft.irfft(spectrum, RATE)
    swells = 0.2 + np.abs(np.sin(np.arange(RATE) / RATE * 12))
    return np.asarray(shaped * swells * strength, np.float32)


def limited(
    samples: np.ndarray[tuple[int], np.dtype[np.float32]], sizes: list[int]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    limiter = Limiter(RATE, CEILING)
    out, at, turn = [], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        out.append(limiter.push(samples[at : at + size]))
        at, turn = at + size, turn + 1
    out.append(limiter.flush())
    return np.concatenate(out)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("strength", [0.5, 2.0, 10.0])
def test_no_true_peak_is_above_the_ceiling(seed: int, strength: float) -> None:
    out = limited(noise(seed, strength), [7_680])
    assert len(out) == RATE
    assert 20 * np.log10(np.abs(np.fft.irfft(np.fft.rfft(out), 8 * RATE) * 8).max()) <= CEILING + 0.1


def test_the_size_of_the_pieces_changes_nothing() -> None:
    samples = noise(4, 2.0)
    whole = limited(samples, [RATE])
    for sizes in ([960], [1, 47, 4_000], [7_680], [333]):
        assert np.allclose(limited(samples, sizes), whole, atol=2e-5)


def test_what_is_low_enough_passes_as_it_is() -> None:
    samples = noise(5, 0.1)
    assert np.array_equal(limited(samples, [960]), samples)
    limiter = Limiter(RATE, CEILING)
    limiter.push(samples)
    assert limiter.loss_db == 0.0


def test_it_knows_what_it_takes_away() -> None:
    samples = noise(6, 3.0)
    limiter = Limiter(RATE, CEILING)
    out = np.concatenate((limiter.push(samples), limiter.flush()))
    taken = 10 * np.log10(float(np.dot(samples, samples)) / float(np.dot(out, out)))
    assert taken > 3
    assert limiter.loss_db == pytest.approx(taken, abs=1.5)


def test_the_gain_falls_before_a_peak_not_on_it() -> None:
    samples = np.full(RATE // 2, 0.3, np.float32)
    samples[12_000:12_004] = 3.0
    gains = limited(samples, [960])[11_000:13_000] / samples[11_000:13_000]
    steps = np.abs(np.diff(gains))
    assert steps.max() < 0.01, "a slope, not a step"
    assert gains[990] < 1.0 < gains[0] + 0.01
