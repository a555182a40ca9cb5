"""Kaldi's filterbank features (fbank) in numpy, whole or chunk by chunk, as sherpa-onnx feeds its zipformers.

Frame t is centred on sample hop * t + hop / 2 (snip_edges off) and what it lacks at either end is mirrored. Of
each frame: its mean is taken away, pre-emphasis 0.97 (the first sample against itself), Povey's window
(Hann ** 0.85), the power of a 512 point transform, triangles equally wide on the mel scale 1127 ln(1 + f / 700)
from 20 Hz to 400 Hz below half the rate, ln of at least float32's epsilon. No dither. Samples within ±1.
(kaldi: feature-window.cc, mel-computations.cc; sherpa-onnx: features.h.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

EPSILON = float(np.finfo(np.float32).eps)
BLOCK = 1024
"""Frames transformed at once."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What front.json says under "features" of kind kaldi."""

    kind: str = "kaldi"
    mels: int = 80
    rate: int = 16_000
    window: int = 400
    hop: int = 160
    preemphasis: float = 0.97
    low_hz: float = 20.0
    high_hz: float = -400.0
    """Zero or less: so much below half the rate."""
    scale: float = 1.0
    """Of the samples; 32768 for models trained on 16 bit values."""

    def __post_init__(self) -> None:
        if self.kind != "kaldi":
            raise ValueError(f"features of kind {self.kind!r} are not Kaldi's")
        if not 0 < self.hop <= self.window or self.mels < 1 or self.rate < 1:
            raise ValueError(f"features need 0 < hop <= window, mels and rate: {self}")


class Fbank:
    """Features by `settings`: fields of Settings. Raises: ValueError."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        unknown = set(settings) - {field.name for field in fields(Settings)}
        if unknown:
            raise ValueError(f"unknown settings of features: {', '.join(sorted(unknown))}")
        self.settings = s = Settings(**settings)
        self.n_fft = 1 << (s.window - 1).bit_length()
        high = s.high_hz if s.high_hz > 0 else s.rate / 2 + s.high_hz
        self._bank = kaldi_bank(s.mels, self.n_fft, s.rate, s.low_hz, high)
        self._window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(s.window) / (s.window - 1))) ** 0.85

    @property
    def frame_s(self) -> float:
        return self.settings.hop / self.settings.rate

    @property
    def lead(self) -> int:
        """Samples of the first frame that lie before the audio."""
        return self.settings.window // 2 - self.settings.hop // 2

    def frames(self, samples: int) -> int:
        """How many frames `whole` makes of so many samples."""
        return (samples + self.settings.hop // 2) // self.settings.hop

    def whole(self, audio: Floats) -> Floats:
        """audio [n], n >= 0 -> [frames(n), mels]."""
        stream = self.stream()
        return np.concatenate([stream.push(audio), stream.end()])

    def stream(self) -> FbankStream:
        return FbankStream(self)

    def logs(self, samples: Floats, count: int) -> Floats:
        """The first `count` frames, frame i from sample i * hop on -> [count, mels]."""
        s = self.settings
        result = np.empty((count, s.mels), dtype=np.float32)
        if not count:
            return result
        windows = np.lib.stride_tricks.sliding_window_view(samples, s.window)[:: s.hop][:count]
        for start in range(0, count, BLOCK):
            frames = windows[start : start + BLOCK].astype(np.float64) * s.scale
            frames -= frames.mean(axis=1, keepdims=True)
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            spectrum = np.fft.rfft((frames - s.preemphasis * before) * self._window, self.n_fft, axis=1)
            powers = (spectrum.real**2 + spectrum.imag**2) @ self._bank
            result[start : start + BLOCK] = np.log(np.maximum(powers, EPSILON))
        return result


class FbankStream:
    """One utterance's features, as many with each chunk as are settled; together exactly `whole`."""

    def __init__(self, fbank: Fbank) -> None:
        self._fbank = fbank
        self._held: Floats = np.zeros(0, dtype=np.float32)
        """Samples from the next frame's first on; before the first frame, from the audio's first on."""
        self._tail: Floats = np.zeros(0, dtype=np.float32)
        """The audio's last samples, which its end mirrors."""
        self._samples = 0
        self._frames = 0
        self._begun = False
        self._ended = False

    def push(self, audio: Floats) -> Floats:
        """audio [n], n >= 0 -> [t, mels], t >= 0. Raises: ValueError after `end`."""
        if self._ended:
            raise ValueError("the utterance has ended: begin another stream")
        samples = np.asarray(audio, dtype=np.float32).reshape(-1)
        self._samples += len(samples)
        self._held = np.concatenate([self._held, samples])
        self._tail = np.concatenate([self._tail, samples])[-self._fbank.settings.window :]
        return self._settled()

    def end(self) -> Floats:
        """The frames that reach beyond the end -> [t, mels]."""
        self._ended = True
        lacking = self._fbank.frames(self._samples) - self._frames
        if lacking <= 0:
            return np.zeros((0, self._fbank.settings.mels), dtype=np.float32)
        # An end nearer than half a window is mirrored again and again, as often as it takes.
        if not self._begun:
            self._held = mirrored(self._held, self._fbank.lead, 0)
            self._begun = True
        need = (lacking - 1) * self._fbank.settings.hop + self._fbank.settings.window
        beyond = mirrored(self._tail, 0, max(0, need - len(self._held)))[len(self._tail) :]
        self._held = np.concatenate([self._held, beyond])
        return self._take(lacking)

    def _settled(self) -> Floats:
        fbank = self._fbank
        if not self._begun:
            if len(self._held) < fbank.settings.window:
                return np.zeros((0, fbank.settings.mels), dtype=np.float32)
            self._held = mirrored(self._held, fbank.lead, 0)
            self._begun = True
        count = max(0, (len(self._held) - fbank.settings.window) // fbank.settings.hop + 1)
        return self._take(min(count, fbank.frames(self._samples) - self._frames))

    def _take(self, count: int) -> Floats:
        logs = self._fbank.logs(self._held, count)
        self._held = self._held[count * self._fbank.settings.hop :]
        self._frames += count
        return logs


def mirrored(samples: Floats, before: int, after: int) -> Floats:
    """Samples with so many mirrored ones at its ends: sample -1 is sample 0, -2 is 1, and so on."""
    if not len(samples):
        return np.zeros(before + after, dtype=np.float32)
    return np.pad(samples, (before, after), mode="symmetric")


def kaldi_bank(mels: int, n_fft: int, rate: int, low: float, high: float) -> NDArray[np.float64]:
    """Triangles of height 1, equally wide in mel; the bin of half the rate has none -> [n_fft // 2 + 1, mels].

    Raises: ValueError.
    """
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"mel bands from {low:g} to {high:g} Hz do not fit a rate of {rate} Hz")
    edges = np.linspace(_mel(np.array(low)), _mel(np.array(high)), mels + 2)
    bins = _mel(np.arange(n_fft // 2 + 1) * rate / n_fft)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bank = np.maximum(0.0, np.minimum(rising, falling))
    bank[-1] = 0.0
    return np.asarray(bank, dtype=np.float64)


def _mel(hertz: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hertz / 700.0), dtype=np.float64)
