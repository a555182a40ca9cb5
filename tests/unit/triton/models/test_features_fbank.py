"""Kaldi's fbank against its formula written out sample by sample, and against values kaldi-native-fbank gave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.features_fbank import Fbank, kaldi_bank

KALDI = {0: -11.98105, 7: -8.60692, 20: -7.91957, 79: -15.94238}
"""kaldi-native-fbank 1.23 (80 mels, no dither, snip_edges off, high_freq -400): frame 3 of TONE, some bands."""
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(4000) / 16_000)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def written_out(audio: NDArray[np.float32], frame: int, band: int) -> float:
    """One band of one frame, from the definition: slow, and without the code that is tested."""
    count = len(audio)
    samples: list[float] = []
    for at in range(160 * frame + 80 - 200, 160 * frame + 80 + 200):
        while not 0 <= at < count:
            at = -at - 1 if at < 0 else 2 * count - 1 - at
        samples.append(float(audio[at]))
    mean = sum(samples) / 400
    samples = [value - mean for value in samples]
    emphasised = [samples[max(at, 0)] - 0.97 * samples[max(at - 1, 0)] for at in range(400)]
    windowed = [
        value * (0.5 - 0.5 * math.cos(2 * math.pi * at / 399)) ** 0.85 for at, value in enumerate(emphasised)
    ]

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    low, high = mel(20.0), mel(7600.0)
    step = (high - low) / 81
    left, middle, right = (low + (band + edge) * step for edge in range(3))
    total = 0.0
    for number in range(256):
        place = mel(number * 16_000 / 512)
        if left < place < right:
            weight = (place - left) / step if place <= middle else (right - place) / step
            angle = [2 * math.pi * number * n / 512 for n in range(400)]
            real = sum(value * math.cos(a) for value, a in zip(windowed, angle, strict=True))
            imaginary = sum(value * math.sin(a) for value, a in zip(windowed, angle, strict=True))
            total += weight * (real**2 + imaginary**2)
    return math.log(max(total, 1.1920928955078125e-07))


@pytest.mark.parametrize("samples", [90, 333, 1_700])
def test_it_is_the_formula(samples: int) -> None:
    audio = noise(samples)
    made = Fbank({}).whole(audio)
    assert len(made) == (samples + 80) // 160
    for frame in {0, len(made) // 2, len(made) - 1}:
        for band in (0, 13, 41, 79):
            assert made[frame, band] == pytest.approx(written_out(audio, frame, band), abs=1e-4)


def test_it_is_what_kaldi_says() -> None:
    frame = Fbank({}).whole(TONE)[3]
    for band, value in KALDI.items():
        assert frame[band] == pytest.approx(value, abs=3e-4)  # Kaldi's transform is in float32


@pytest.mark.parametrize("sizes", [(1, 2), (100, 161), (400, 401), (0, 900), (5_000, 5_001)])
@pytest.mark.parametrize("samples", [0, 1, 79, 80, 200, 399, 400, 1_000, 9_999])
def test_chunk_by_chunk_is_the_whole(samples: int, sizes: tuple[int, int]) -> None:
    audio, fbank, rng = noise(samples, 3), Fbank({}), np.random.default_rng(1)
    stream, at, parts = fbank.stream(), 0, []
    while at < samples:
        size = int(rng.integers(*sizes))
        parts.append(stream.push(audio[at : at + size]))
        at += size
    parts.append(stream.end())
    whole = fbank.whole(audio)
    assert len(whole) == fbank.frames(samples)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_frames_come_as_soon_as_they_are_settled() -> None:
    stream = Fbank({}).stream()
    assert len(stream.push(noise(399))) == 0
    assert len(stream.push(noise(1))) == 1 + (400 - 280) // 160
    assert len(stream.push(noise(160))) == 1


def test_an_ended_stream_takes_no_more() -> None:
    stream = Fbank({}).stream()
    stream.end()
    with pytest.raises(ValueError, match="ended"):
        stream.push(noise(10))


@pytest.mark.parametrize(
    "settings", [{"kind": "nemo"}, {"hop": 0}, {"hop": 500}, {"bands": 80}, {"low_hz": 9_000.0}, {"mels": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"features|unknown|bands"):
        Fbank(settings)


def test_bands_cover_the_range_and_nothing_else() -> None:
    bank = kaldi_bank(80, 512, 16_000, 20.0, 7_600.0)
    assert bank.shape == (257, 80)
    assert (bank.sum(0) > 0).all()
    assert not bank[0].any()
    assert not bank[244:].any()
