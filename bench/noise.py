"""Sounds that are no turn: made here, seeded, at a stated level (dBFS RMS of the whole)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.microphone import Float, Source
from bench.speech import RATE

ROOM_DBFS = -70.0
"""White noise under everything: no microphone gives digital silence."""


def at_level(samples: np.ndarray[tuple[int], np.dtype[np.float64]], dbfs: float) -> Float:
    rms = float(np.sqrt((samples**2).mean()))
    return (samples * (10 ** (dbfs / 20) / rms)).astype(np.float32)


def white(seconds: float, dbfs: float, seed: int) -> Float:
    return at_level(np.random.default_rng(seed).standard_normal(int(seconds * RATE)), dbfs)


def pink(seconds: float, dbfs: float, seed: int) -> Float:
    """Power falls with 1/f from 20 Hz on."""
    size = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(size))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20))
    return at_level(np.fft.irfft(spectrum, size), dbfs)


def clicks(seconds: float, dbfs: float, seed: int, per_s: float = 3.0) -> Float:
    """Keys and cups: bursts of noise that fade with a time constant of 2 to 12 ms, at random moments.

    dbfs: of the loudest 10 ms.
    """
    random = np.random.default_rng(seed)
    out = np.zeros(int(seconds * RATE))
    for at in random.uniform(0, seconds, int(seconds * per_s)):
        fades = random.uniform(0.002, 0.012)
        begin = int(at * RATE)
        length = min(int(6 * fades * RATE), out.size - begin)
        burst = random.standard_normal(length) * np.exp(-np.arange(length) / (fades * RATE))
        out[begin : begin + length] += burst * random.uniform(0.4, 1.0)
    frame = RATE // 100
    loudest = (out[: out.size // frame * frame].reshape(-1, frame) ** 2).mean(axis=1).max()
    scaled: Float = (out * (10 ** (dbfs / 20) / np.sqrt(loudest))).astype(np.float32)
    return scaled


def babble(voices: Sequence[Float], seconds: float, dbfs: float, seed: int, talkers: int = 8) -> Float:
    """Many people at once: each goes through the voices in an order of his own."""
    random = np.random.default_rng(seed)
    out = np.zeros(int(seconds * RATE))
    for _ in range(talkers):
        out += _talker(voices, out.size, random)
    return at_level(out, dbfs)


def television(voices: Sequence[Float], seconds: float, dbfs: float, seed: int) -> Float:
    """One voice at a time from another room: no treble, half a second of reverberation."""
    random = np.random.default_rng(seed)
    dry = _talker(voices, int(seconds * RATE), random, pause_s=0.4)
    tail = random.standard_normal(RATE // 2) * np.exp(-np.arange(RATE // 2) / (0.12 * RATE))
    tail[0] += 4.0
    size = dry.size + tail.size
    spectrum = np.fft.rfft(dry, size) * np.fft.rfft(tail, size)
    spectrum *= 1 / np.sqrt(1 + (np.fft.rfftfreq(size, 1 / RATE) / 2_000) ** 4)
    return at_level(np.fft.irfft(spectrum, size)[: dry.size], dbfs)


def loop(samples: Float) -> Source:
    """Over and over, from its first sample on."""
    at = 0

    def source(_time: float, count: int) -> Float:
        nonlocal at
        piece: Float = np.take(samples, np.arange(at, at + count), mode="wrap")
        at = (at + count) % samples.size
        return piece

    return source


class Switched:
    """A source that can be silent. Time goes on in it while it sounds only."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.on = True

    def __call__(self, time: float, count: int) -> Float:
        return self._source(time, count) if self.on else np.zeros(count, np.float32)


def room(seed: int) -> Source:
    return loop(white(5.0, ROOM_DBFS, seed))


def _talker(
    voices: Sequence[Float], size: int, random: np.random.Generator, pause_s: float = 0.1
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Voices one after the other, each at the same level, beginning somewhere."""
    parts: list[Float] = []
    have = 0
    pause = np.zeros(int(pause_s * RATE), np.float32)
    while have < size + RATE * 10:
        for number in random.permutation(len(voices)):
            parts += [at_level(voices[number].astype(np.float64), -26.0), pause]
            have += parts[-2].size + pause.size
    joined = np.concatenate(parts).astype(np.float64)
    begin = int(random.integers(0, joined.size - size))
    return joined[begin : begin + size]
