"""−16 LUFS ± 1 as an independent meter hears it, without pumping and without a peak above −1 dBTP."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyloudnorm
import pytest
import soundfile

from gateway.audio.pcm import Float
from gateway.riva.tts_api.calibration import learn
from gateway.riva.tts_api.levels import VoiceLevel
from gateway.riva.tts_api.sound import FRAME_BYTES, Sound
from gateway.riva.tts_api.utterance import Chunk

RECORDINGS = Path(__file__).parents[5] / "shared" / "audio"
TARGET = -16.0
FASTEST_DB_S = 6.0
Wave = npt.NDArray[np.float64]


def speechlike(seconds: float, rate: int, seed: int, level_db: float) -> Float:
    """Syllables of a buzz with formants of noise, each of its own strength, and pauses."""
    rng = np.random.default_rng(seed)
    out = np.zeros(round(seconds * rate))
    at = 0
    while at < len(out):
        length = round(rate * rng.uniform(0.12, 0.3))
        t = np.arange(length) / rate
        pitch = rng.uniform(100, 180)
        buzz = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 25) if pitch * k < rate / 2.2)
        hiss = rng.standard_normal(length) * 0.15
        syllable = (buzz + hiss) * np.hanning(length) * 10 ** (rng.uniform(-4, 0) / 20)
        end = min(len(out), at + length)
        out[at:end] += syllable[: end - at]
        at = end + (round(rate * rng.uniform(0.2, 0.5)) if rng.random() < 0.12 else 0)
    return np.clip(out * 0.4 * 10 ** (level_db / 20), -1, 1).astype(np.float32)


def chunks(samples: Float, rate: int, level: VoiceLevel, ms: int = 160) -> list[Chunk]:
    size = rate * ms // 1000
    return [Chunk(samples[at : at + size], rate, level) for at in range(0, len(samples), size)]


def spoken(samples: Float, rate: int, level: VoiceLevel) -> tuple[Wave, float]:
    """What comes out, and how fast the gain moved at most (dB/s)."""
    sound = Sound(TARGET)
    frames = sound.voice(rate, level)
    gains: list[tuple[float, float]] = []
    seconds = 0.0
    for chunk in chunks(samples, rate, level):
        frames += sound.push(chunk.samples)
        seconds += len(chunk.samples) / rate
        if sound.gain_db is not None:
            gains.append((seconds, sound.gain_db))
    frames += sound.finish()
    sound.close()
    assert all(len(frame) == FRAME_BYTES for frame in frames)
    moves = [abs(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(gains)]
    wave: Wave = np.frombuffer(b"".join(frames), "<i2").astype(np.float64) / 32768
    return wave, max(moves, default=0.0)


def lufs(wave: Wave, rate: int = 48_000) -> float:
    return float(pyloudnorm.Meter(rate).integrated_loudness(wave))


def true_peak_db(wave: Wave) -> float:
    oversampled = np.fft.irfft(np.fft.rfft(wave), 8 * len(wave)) * 8
    return float(20 * np.log10(np.abs(oversampled).max()))


def check(samples: Float, rate: int, level: VoiceLevel) -> None:
    wave, fastest = spoken(samples, rate, level)
    assert lufs(wave) == pytest.approx(TARGET, abs=1.0)
    assert fastest <= FASTEST_DB_S + 0.01
    assert true_peak_db(wave) <= -1.0


@pytest.mark.parametrize(
    ("rate", "level_db"), [(8_000, -8.0), (16_000, -20.0), (16_000, 0.0), (22_050, -8.0), (48_000, -14.0)]
)
def test_a_known_voice_speaks_at_the_target(rate: int, level_db: float) -> None:
    level = VoiceLevel()
    asyncio.run(learn(level, chunks(speechlike(4.0, rate, 1, level_db), rate, level), TARGET))
    for seed in (2, 3):
        check(speechlike(4.0, rate, seed, level_db), rate, level)


@pytest.mark.parametrize("change_db", [-12.0, 0.0, 6.0])
def test_recorded_speech_speaks_at_the_target(change_db: float) -> None:
    files = sorted(RECORDINGS.glob("austen-*.wav"))
    if not files:
        pytest.skip("no recorded speech beside the checkout")
    level = VoiceLevel()
    # One reader: every recording is another utterance of the same voice.
    for number, file in enumerate(files):
        samples, rate = soundfile.read(file, dtype="float32")
        louder = np.clip(samples * np.float32(10 ** (change_db / 20)), -1, 1).astype(np.float32)
        if number == 0:
            asyncio.run(learn(level, chunks(louder, rate, level), TARGET))
        if len(louder) > 3 * rate:
            wave, fastest = spoken(louder, rate, level)
            # The reader's own loudness differs by 4 LU from recording to recording.
            assert lufs(wave) == pytest.approx(TARGET, abs=2.0 if number else 1.0)
            assert fastest <= FASTEST_DB_S + 0.01
            assert true_peak_db(wave) <= -1.0


def test_a_voice_never_heard_before_comes_near_at_once_and_is_right_the_next_time() -> None:
    level = VoiceLevel()
    for number in range(4):
        wave, fastest = spoken(speechlike(4.0, 16_000, number, -10.0), 16_000, level)
        assert lufs(wave) == pytest.approx(TARGET, abs=4.0 if number == 0 else 1.0)
        assert fastest <= FASTEST_DB_S + 0.01


def test_the_gain_of_a_known_voice_hardly_moves() -> None:
    level = VoiceLevel()
    asyncio.run(learn(level, chunks(speechlike(6.0, 16_000, 5, -20.0), 16_000, level), TARGET))
    for seed in (5, 6, 7):
        sound = Sound(TARGET)
        sound.voice(16_000, level)
        gains = []
        for chunk in chunks(speechlike(6.0, 16_000, seed, -20.0), 16_000, level):
            sound.push(chunk.samples)
            gains.append(sound.gain_db or 0.0)
        sound.close()
        assert max(gains) - min(gains) < 3.5
        turns = sum(a * b < 0 for a, b in pairwise(g for g in np.diff(gains) if g))
        assert turns <= 6, "it goes to and fro more than once a second: that is pumping"


def test_a_soft_beginning_is_made_up_for() -> None:
    """As a whole: a sentence that begins 3 dB softer than the voice speaks otherwise."""
    level = VoiceLevel()
    asyncio.run(learn(level, chunks(speechlike(6.0, 16_000, 5, -20.0), 16_000, level), TARGET))
    samples = speechlike(5.0, 16_000, 6, -20.0)
    samples[: 2 * 16_000] *= np.float32(10 ** (-3 / 20))
    wave, _ = spoken(samples, 16_000, level)
    assert lufs(wave) == pytest.approx(TARGET, abs=0.4)


def test_the_same_text_sounds_the_same_again() -> None:
    level = VoiceLevel()
    samples = speechlike(4.0, 16_000, 5, -20.0)
    asyncio.run(learn(level, chunks(samples, 16_000, level), TARGET))
    first, _ = spoken(samples, 16_000, level)
    again, _ = spoken(samples, 16_000, level)
    assert np.array_equal(first, again)


def test_a_voice_that_grew_louder_is_followed_slowly() -> None:
    level = VoiceLevel()
    level.know(-30.0, 20.0)
    wave, fastest = spoken(speechlike(8.0, 16_000, 3, 0.0), 16_000, level)
    assert 0 < fastest <= FASTEST_DB_S + 0.01
    assert true_peak_db(wave) <= -1.0
    assert lufs(wave[-3 * 48_000 :]) < lufs(wave[:48_000]) + 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_samples_harm_nobody(bad: float) -> None:
    level = VoiceLevel()
    level.know(-20.0, 20.0)
    samples = speechlike(1.0, 16_000, 1, -10.0)
    samples[4_000:4_010] = bad
    wave, _ = spoken(samples, 16_000, level)
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() <= 1.0
