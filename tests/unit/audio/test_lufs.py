"""Streamed loudness beside pyloudnorm's."""

from __future__ import annotations

import numpy as np
import pyloudnorm
import pytest

from gateway.audio.lufs import LoudnessMeter


def bursts(rate: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """8 s of coloured noise with pauses and changing strength."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(8 * rate), np.ones(8) / 8, "same")
    strength = np.repeat(rng.choice([0.0, 0.003, 0.05, 0.2], size=33), rate // 4)
    return np.asarray(noise * strength[: len(noise)], np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_agrees_with_an_independent_meter(rate: int, seed: int) -> None:
    samples = bursts(rate, seed)
    meter = LoudnessMeter(rate)
    rng = np.random.default_rng(seed)
    at = 0
    while at < len(samples):
        size = int(rng.integers(1, rate // 3))
        meter.push(samples[at : at + size])
        at += size
    expected = pyloudnorm.Meter(rate).integrated_loudness(samples.astype(np.float64))
    assert meter.lufs == pytest.approx(expected, abs=0.2)


def test_the_size_of_the_pieces_changes_nothing() -> None:
    samples = bursts(16_000, 3)
    found = set()
    for size in (1, 160, 1_600, 7_777, len(samples)):
        meter = LoudnessMeter(16_000)
        for at in range(0, len(samples), size if size > 1 else 997):
            meter.push(samples[at : at + (size if size > 1 else 997)])
        assert meter.lufs is not None
        found.add(round(meter.lufs, 6))
    assert len(found) == 1


def test_silence_has_no_loudness_and_pauses_do_not_count() -> None:
    meter = LoudnessMeter(16_000)
    meter.push(np.zeros(32_000, np.float32))
    assert meter.lufs is None
    assert meter.voiced_s == 0.0
    tone = (0.1 * np.sin(np.arange(48_000) * 2 * np.pi * 1_000 / 16_000)).astype(np.float32)
    meter.push(tone)
    before = meter.lufs
    meter.push(np.zeros(160_000, np.float32))
    assert before == pytest.approx(-23.0, abs=0.3), "a 1 kHz sine of −20 dBFS"
    assert meter.lufs == pytest.approx(before, abs=0.3)
