"""Sound for the tests of the ear: a synthetic voice, rooms, and real speech where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from gateway.listen.silero import _load
from gateway.listen.vad import WINDOW

Float = npt.NDArray[np.float32]
RATE = 16_000
SPEECH = Path(__file__).parents[4] / "shared" / "audio"


def voice(seed: int, seconds: float, dbfs: float = -22.0) -> Float:
    """A made-up speaker: gliding harmonics and hiss in syllables, every voice its own pitch and vowels. [n]"""
    rng = np.random.default_rng(seed)
    out: list[npt.NDArray[np.float64]] = []
    total = int(seconds * RATE)
    while sum(map(len, out)) < total:
        n = int(rng.uniform(0.12, 0.35) * RATE)
        t = np.arange(n) / RATE
        f0 = rng.uniform(90, 230) * (1 + rng.uniform(-0.2, 0.2) * t / t[-1])
        phase = 2 * np.pi * np.cumsum(f0) / RATE
        formants = rng.uniform([250, 800, 2200], [900, 2200, 3500])
        syllable = np.zeros(n)
        for h in range(1, int(4_000 / f0.max())):
            weight = sum(np.exp(-(((h * f0.mean() - f) / 180) ** 2)) for f in formants) + 0.02
            syllable += weight * np.sin(h * phase + rng.uniform(0, 2 * np.pi))
        hiss = rng.standard_normal(n) * (t < rng.uniform(0, 0.06))
        envelope = np.sqrt(np.maximum(0, np.sin(np.pi * t / t[-1])))
        out += [syllable * envelope + 0.5 * hiss, np.zeros(int(rng.uniform(0.01, 0.12) * RATE))]
    x = np.concatenate(out)[:total]
    return np.asarray(x / np.sqrt(np.mean(x**2)) * 10 ** (dbfs / 20), np.float32)


def room(x: Float, delay_ms: float, gain_db: float, tail_s: float = 0.0, seed: int = 0) -> Float:
    """What the microphone hears of loudspeaker signal x: delayed, quieter, with a decaying tail. [n]"""
    n = int(max(tail_s, 0.001) * RATE)
    h = np.zeros(int(delay_ms * RATE / 1000) + n)
    h[-n] = 1.0
    if tail_s:
        tail = np.random.default_rng(seed).standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
        tail[0] = 0
        h[-n:] += 0.7 * tail / np.sqrt(np.sum(tail**2))
    h *= 10 ** (gain_db / 20)
    size = 1 << (len(x) + len(h)).bit_length()
    return np.asarray(np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(h, size), size)[: len(x)], np.float32)


def hiss(n: int, dbfs: float, seed: int = 0) -> Float:
    """White noise [n]."""
    return np.asarray(np.random.default_rng(seed).standard_normal(n) * 10 ** (dbfs / 20), np.float32)


def recorded(name: str, dbfs: float | None = None) -> Float:
    """Real speech at 16 kHz; skips the test where the recordings are not at hand."""
    if not (SPEECH / name).exists():
        pytest.skip("no recordings of real speech here")
    x, rate = soundfile.read(SPEECH / name, dtype="float32")
    assert rate == RATE
    loud = x[np.abs(x) > 0.01]
    return x if dbfs is None else np.asarray(x / np.sqrt(np.mean(loud**2)) * 10 ** (dbfs / 20), np.float32)


def recordings() -> list[str]:
    """Names of all recordings."""
    path = SPEECH / "transcripts.json"
    return sorted(json.loads(path.read_text())) if path.exists() else []


def probabilities(x: Float) -> npt.NDArray[np.float64]:
    """Silero's verdict on each window of x, one stream, no batching."""
    session = _load()
    context = np.zeros((1, 64), np.float32)
    state = np.zeros((2, 1, 128), np.float32)
    out = []
    for k in range(len(x) // WINDOW):
        joined = np.concatenate([context, x[None, k * WINDOW : (k + 1) * WINDOW]], axis=1)
        context = joined[:, -64:]
        probability, state = session.run(None, {"input": joined, "state": state, "sr": np.array(RATE)})
        out.append(float(probability[0, 0]))
    return np.array(out)


def confirmed(voiced: npt.NDArray[np.bool_]) -> int:
    """How often 250 ms of voiced audio fall within a second: what would cancel a reply."""
    count, k = 0, 0
    while k < len(voiced):
        if voiced[k : k + 31].sum() >= 8:
            count += 1
            k += 31
        else:
            k += 1
    return count
