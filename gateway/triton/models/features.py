"""Log-mel features as transformers' extractors make them, in numpy alone, whole or chunk by chunk.

Two kinds. `whisper`: WhisperFeatureExtractor (transformers 5.23): Hann window of n_fft, the signal reflected
at both ends, log10 of at least 1e-10, no lower than 8 below the loudest value of the utterance, (x + 4) / 4,
padded with silence to a fixed length. `nemo`: ParakeetFeatureExtractor and
NemotronAsrStreamingFeatureExtractor: pre-emphasis, a symmetric Hann window amid n_fft, zeros at both ends,
ln(x + 2^-24), then mean 0 and deviation 1 per mel band over the utterance ("per_feature") or nothing ("none").
Both take Slaney's mel scale and area normalisation and the squared magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

WHISPER_FLOOR = 1e-10
WHISPER_RANGE = 8.0
NEMO_GUARD = 2.0**-24
NEMO_EPSILON = 1e-5
BLOCK = 1024
"""Frames transformed at once: an hour of audio must not become gigabytes of windows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What front.json says under "features". Times in samples unless named otherwise."""

    kind: Literal["whisper", "nemo"]
    mels: int = 80
    rate: int = 16_000
    n_fft: int = 400
    window: int = 400
    hop: int = 160
    pad_s: float = 0.0
    """whisper: silence is added up to this length and what is longer is cut; 0: neither."""
    preemphasis: float = 0.0
    normalize: Literal["none", "per_feature", "utterance"] = "none"
    """utterance: whisper's clamp to the loudest value. It and per_feature need the whole utterance."""

    def __post_init__(self) -> None:
        if self.kind not in ("whisper", "nemo"):
            raise ValueError(f"features of kind {self.kind!r} are unknown: whisper or nemo")
        allowed = ("utterance",) if self.kind == "whisper" else ("none", "per_feature")
        if self.normalize not in allowed:
            raise ValueError(
                f"{self.kind} features are normalised by {' or '.join(allowed)}, not {self.normalize!r}"
            )
        if not 0 < self.hop <= self.window <= self.n_fft or self.mels < 1 or self.rate < 1:
            raise ValueError(f"features need 0 < hop <= window <= n_fft, mels and rate: {self}")


class LogMel:
    """Features by `settings`: fields of Settings; what is left out has the kind's own default.

    Raises: ValueError on settings that are unknown or contradict each other.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = complete(settings)
        s = self.settings
        self.streams = s.normalize == "none"
        """Whether chunk by chunk can equal the whole."""
        self._bank = mel_bank(s.mels, s.n_fft, s.rate)
        if s.kind == "nemo":
            phase = 2 * np.pi * np.arange(s.window) / max(s.window - 1, 1)
        else:
            phase = 2 * np.pi * np.arange(s.window) / s.window
        before = (s.n_fft - s.window) // 2
        self._window = np.zeros(s.n_fft)
        self._window[before : before + s.window] = 0.5 - 0.5 * np.cos(phase)

    @property
    def frame_s(self) -> float:
        return self.settings.hop / self.settings.rate

    def frames(self, samples: int) -> int:
        """How many frames `whole` makes of so many samples."""
        s = self.settings
        if s.kind == "whisper":
            samples = round(s.pad_s * s.rate) if s.pad_s else max(samples, s.n_fft)
        return samples // s.hop

    def whole(self, audio: Floats) -> Floats:
        """audio [n] at the settings' rate, n >= 0 -> [frames(n), mels]."""
        samples = np.asarray(audio, dtype=np.float32).reshape(-1)
        return self._whisper(samples) if self.settings.kind == "whisper" else self._nemo(samples)

    def stream(self) -> LogMelStream:
        """One utterance, chunk by chunk. Raises: ValueError where the whole utterance is needed."""
        if not self.streams:
            raise ValueError(
                f"features normalised by {self.settings.normalize} need the whole utterance: they cannot be streamed"
            )
        return LogMelStream(self)

    def _whisper(self, samples: Floats) -> Floats:
        s = self.settings
        length = round(s.pad_s * s.rate) if s.pad_s else max(len(samples), s.n_fft)
        heard = min(len(samples), length)
        half = s.n_fft // 2
        padded = np.zeros(length, dtype=np.float32)
        padded[:heard] = samples[:heard]
        padded = np.pad(padded, half, mode="reflect")
        count = length // s.hop
        mirrored = heard + half >= length  # the end's reflection is heard too
        audible = count if mirrored else min(count, (heard + half) // s.hop + 1)
        logs = np.full((count, s.mels), np.log10(WHISPER_FLOOR), dtype=np.float32)
        logs[:audible] = np.log10(np.maximum(self.powers(padded, audible), WHISPER_FLOOR))
        return np.asarray((np.maximum(logs, logs.max() - WHISPER_RANGE) + 4.0) / 4.0, dtype=np.float32)

    def _nemo(self, samples: Floats) -> Floats:
        s = self.settings
        count = len(samples) // s.hop
        if count == 0:
            return np.zeros((0, s.mels), dtype=np.float32)
        padded = np.pad(preemphasized(samples, 0.0, s.preemphasis), s.n_fft // 2)
        logs = np.log(self.powers(padded, count) + NEMO_GUARD)
        if s.normalize == "per_feature":
            mean = logs.mean(axis=0)
            # One frame has no deviation: the reference makes NaN of it, which no model can take.
            deviation = logs.std(axis=0, ddof=1) if count > 1 else np.zeros(s.mels)
            logs = (logs - mean) / (deviation + NEMO_EPSILON)
        return np.asarray(logs, dtype=np.float32)

    def powers(self, padded: Floats, count: int) -> NDArray[np.float64]:
        """The mel bands' powers of the first `count` frames, frame i from sample i * hop on -> [count, mels]."""
        s = self.settings
        result = np.empty((count, s.mels))
        windows = np.lib.stride_tricks.sliding_window_view(padded, s.n_fft)[:: s.hop] if count else None
        for start in range(0, count, BLOCK):
            assert windows is not None
            spectrum = np.fft.rfft(windows[start : min(start + BLOCK, count)] * self._window, axis=1)
            result[start : start + BLOCK] = (spectrum.real**2 + spectrum.imag**2) @ self._bank
        return result


class LogMelStream:
    """One utterance's features, as many with each chunk as are settled; together exactly `whole`."""

    def __init__(self, mel: LogMel) -> None:
        self._mel = mel
        settings = mel.settings
        self._held: Floats = np.zeros(settings.n_fft // 2, dtype=np.float32)
        """Pre-emphasised samples from the next frame's first on."""
        self._previous = 0.0
        self._samples = 0
        self._frames = 0
        self._ended = False

    def push(self, audio: Floats) -> Floats:
        """audio [n], n >= 0 -> [t, mels], t >= 0. Raises: ValueError after `end`."""
        if self._ended:
            raise ValueError("the utterance has ended: begin another stream")
        samples = np.asarray(audio, dtype=np.float32).reshape(-1)
        if len(samples):
            s = self._mel.settings
            self._held = np.concatenate([self._held, preemphasized(samples, self._previous, s.preemphasis)])
            self._previous = float(samples[-1])
            self._samples += len(samples)
        return self._settled()

    def end(self) -> Floats:
        """The frames that still lack samples: silence follows -> [t, mels]."""
        self._ended = True
        s = self._mel.settings
        self._held = np.concatenate([self._held, np.zeros(s.n_fft, dtype=np.float32)])
        return self._settled()

    def _settled(self) -> Floats:
        s = self._mel.settings
        count = (len(self._held) - s.n_fft) // s.hop + 1 if len(self._held) >= s.n_fft else 0
        count = max(0, min(count, self._samples // s.hop - self._frames))
        logs: Floats = np.log(self._mel.powers(self._held, count) + NEMO_GUARD).astype(np.float32)
        self._held = self._held[count * s.hop :]
        self._frames += count
        return logs


def complete(settings: Mapping[str, Any]) -> Settings:
    """Settings from JSON, the kind's defaults for what is left out. Raises: ValueError."""
    unknown = set(settings) - {field.name for field in fields(Settings)}
    if unknown:
        raise ValueError(f"unknown settings of features: {', '.join(sorted(unknown))}")
    kinds: dict[str, dict[str, Any]] = {
        "whisper": {"normalize": "utterance", "pad_s": 30.0},
        "nemo": {"n_fft": 512, "preemphasis": 0.97},
    }
    kind = str(settings.get("kind", ""))
    given = {**kinds.get(kind, {}), **settings, "kind": kind}
    if kind == "whisper":
        given.setdefault("window", given.get("n_fft", 400))
    return Settings(**given)


def preemphasized(samples: Floats, previous: float, coefficient: float) -> Floats:
    """x[t] - coefficient * x[t - 1], with `previous` before the first sample."""
    if not coefficient or not len(samples):
        return samples
    shifted = np.concatenate([np.array([previous], dtype=np.float32), samples[:-1]])
    return np.asarray(samples - np.float32(coefficient) * shifted, dtype=np.float32)


def mel_bank(mels: int, n_fft: int, rate: int) -> NDArray[np.float64]:
    """Triangles on Slaney's mel scale from 0 Hz to rate / 2, each of the same area -> [n_fft // 2 + 1, mels].

    Slaney's scale: 200/3 Hz a mel up to 1 kHz, then 27 mels for every factor of 6.4.
    """
    top = 15.0 + 27.0 * np.log(rate / 2 / 1000.0) / np.log(6.4) if rate > 2000 else 3.0 * rate / 400.0
    points = np.linspace(0.0, top, mels + 2)
    edges = np.where(
        points < 15.0, points * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (points - 15.0))
    )
    bins = np.linspace(0.0, rate / 2, n_fft // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - low) / (middle - low)
    falling = (high - bins) / (high - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low)), dtype=np.float64)
