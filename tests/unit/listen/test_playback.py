"""What was sent, by position: bounded, zeros elsewhere, resampled only when somebody looks."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio.pcm import to_float
from gateway.audio.resample import resample
from gateway.listen.playback import Playback

RATE = 16_000


def pcm(*values: float) -> bytes:
    return (np.array(values) * 256).astype("<i2").tobytes()


def look(line: Playback, begin: int, end: int) -> list[int]:
    return [round(float(x) * 128) for x in line.slice(begin, end)]


def test_keeps_what_fits_and_zeros_elsewhere() -> None:
    line = Playback(RATE, past=100, ahead=50)
    line.append(pcm(*range(1, 121)))
    assert look(line, 110, 125) == [111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 0, 0, 0, 0, 0]
    line.skip_to(200)
    line.append(pcm(*[1] * 10))
    assert look(line, 195, 215) == [0] * 5 + [1] * 10 + [0] * 5
    assert look(line, 0, 10) == [0] * 10
    line.append(pcm(*[2] * 1_000))
    assert look(line, 1_200, 1_211) == [2] * 10 + [0]
    line.skip_to(1_000_000)
    assert not any(look(line, 999_900, 1_000_000))


def test_a_gap_that_nobody_looked_at_is_silent() -> None:
    line = Playback(RATE, past=100, ahead=50)
    line.append(pcm(*[1] * 100))
    assert look(line, 99, 100) == [1]
    line.append(pcm(*[2] * 20))
    line.skip_to(150)
    line.append(pcm(*[3] * 20))
    assert look(line, 115, 155) == [2] * 5 + [0] * 30 + [3] * 5


def test_what_nobody_looks_at_is_dropped_unread() -> None:
    line = Playback(48_000, past=3_200, ahead=3_200)
    for _ in range(1_000):
        line.append(bytes(1_920))
    assert line.end == 320_000
    assert len(line._unread) <= 21
    assert line._ring is None
    assert line._resampler is None


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 48_000])
@pytest.mark.parametrize("frames_per_look", [1, 7, 1_000])
def test_other_rates_lie_where_they_were_sent(rate: int, frames_per_look: int) -> None:
    t = np.arange(rate * 2) / rate
    samples = np.asarray(np.sin(2 * np.pi * (200 * t + 300 * t * t)) * 8_000, np.int16)
    line = Playback(rate, past=3 * RATE, ahead=0)
    size = rate // 50
    for k in range(100):
        line.append(samples[k * size : (k + 1) * size].tobytes())
        if k % frames_per_look == 0:
            line.slice(0, 1)
    assert line.end == 2 * RATE
    got = line.slice(RATE // 2, 3 * RATE // 2)
    wanted = to_float(resample(samples, rate, RATE).tobytes())
    best = max(
        float(np.corrcoef(got, wanted[RATE // 2 - late : 3 * RATE // 2 - late])[0, 1])
        for late in range(0, 40)
    )
    assert best > 0.99
    line.close()


def test_what_is_forgotten_is_not_kept_and_the_rest_stays_in_place() -> None:
    line = Playback(RATE, past=3_200, ahead=3_200)
    for k in range(10):
        line.append(pcm(*[k + 1] * 320))
    line.forget(1_600)
    assert len(line._unread) == 5
    assert look(line, 1_600, 1_601) == [6]
    assert look(line, 3_199, 3_201) == [10, 0]


def test_looks_the_same_however_little_is_kept() -> None:
    rng = np.random.default_rng(1)
    line = Playback(RATE, past=2_000, ahead=3_200)
    everything = np.zeros(200_000, np.int16)
    at = 0
    for step in range(2_000):
        if rng.random() < 0.02:
            line.skip_to(min(line.end + int(rng.integers(0, 4_000)), at + 2_500))
        if rng.random() < 0.5 and line.end < at + 2_500:
            samples = rng.integers(-9_000, 9_000, int(rng.integers(1, 600))).astype(np.int16)
            everything[line.end : line.end + samples.size] = samples
            line.append(samples.tobytes())
        if line.end > at:
            at = min(at + 60, line.end)
        line.forget(at - 2_000)
        if rng.random() < 0.3:
            begin = max(0, at - int(rng.integers(0, 2_000)))
            end = begin + int(rng.integers(1, 3_000))
            wanted = np.where(np.arange(begin, end) < line.end, everything[begin:end], 0) / 32768
            assert np.array_equal(line.slice(begin, end), wanted.astype(np.float32)), step


def test_nothing_is_kept_of_what_is_forgotten_and_little_of_what_was_read() -> None:
    line = Playback(RATE, past=20_000, ahead=48_000)
    assert line._ring is None
    for k in range(50):
        line.append(pcm(*[1] * 320))
        line.forget((k + 1) * 320 - 16_000)
        line.slice(k * 320, k * 320 + 100)
    assert line._ring is not None
    assert line._ring.nbytes < 2 * 30_000
    line.skip_to(60_000)
    line.forget(50_000)
    assert line._ring is None
    line.append(pcm(*[3] * 320))
    assert look(line, 59_999, 60_001) == [0, 3]
    line.close()
    assert line._ring is None
    assert not line._unread
