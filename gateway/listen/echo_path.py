"""The way from our loudspeaker to the client's microphone, learnt while it is used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.listen.playback import Playback
from gateway.listen.vad import WINDOW

Float = npt.NDArray[np.float32]

HELPED = 0.7
"""With more than this left, the filter knows nothing of this path."""
_TAIL = 0.10
"""−10 dB below the echo of the last windows: its reverberation."""
_YOUNG_TAIL = 0.4
_YOUNG_WINDOWS = 40
"""A filter that has learnt for less than 1.3 s knows little of the reverberation yet."""


class EchoPath:
    """Partitioned-block frequency-domain Kalman filter (after Enzner and Vary, 2006): fast, and steady
    through double talk without a detector of it."""

    PARTS = 5
    MARGIN = 128
    """Samples of the path modelled ahead of its delay."""
    _SIZE = 2 * WINDOW
    _FORGET = 0.998

    def __init__(self, delay: int, gain: float) -> None:
        bins = self._SIZE // 2 + 1
        self.delay = delay
        self._next: int | None = None
        self._spectra = np.zeros((self.PARTS, bins), np.complex64)
        tap = np.zeros(self._SIZE)
        tap[min(self.MARGIN, delay)] = gain
        self._weights = np.zeros((self.PARTS, bins), np.complex64)
        self._weights[0] = np.fft.rfft(tap)
        fading = gain * gain * 0.5 ** np.arange(self.PARTS, dtype=np.float32)
        self._prior = np.repeat(np.maximum(fading, 1e-6)[:, None], bins, axis=1).astype(np.float32)
        self._doubt = self._prior
        self._noise = np.zeros(bins, np.float32)
        self._turn = 0
        self.residual = 0.0
        """Power of echo that may be left in the last window, by the filter's own doubt."""
        self._judged = self._helped = 0
        self.learnt = 0
        """Windows of echo it has learnt from."""

    def judge(self, left: float) -> None:
        """Remember how much (0…1) it left of a window that was loud."""
        self._judged += 1
        self._helped += left < HELPED

    def is_mistaken(self) -> bool:
        """Somebody else's voice was taken for an echo, and this path leads nowhere."""
        return self._judged >= 12 and self._helped < self._judged / 4 and self.learnt < 100

    @property
    def tail(self) -> float:
        """Power that reverberation may have, relative to the echo before it."""
        return _TAIL if self.learnt > _YOUNG_WINDOWS else _YOUNG_TAIL

    @property
    def begins_after(self) -> int:
        """Where the first tap lies: samples after playout."""
        return max(0, self.delay - self.MARGIN)

    def taps(self) -> npt.NDArray[np.float64]:
        """The path's impulse response from `begins_after` on."""
        return np.asarray(np.fft.irfft(self._weights)[:, :WINDOW].ravel())

    def move(self, shift: int) -> None:
        """The same room, later or earlier by `shift` samples."""
        self.delay += shift
        self._next = None
        self._doubt = np.maximum(self._doubt, np.float32(0.3) * self._prior)

    def subtract(self, reference: Playback, at: int, window: Float) -> Float:
        """The window that begins at `at`, without the echo expected; then learns from what is left."""
        self._load(reference, at - self.begins_after)
        echo = np.fft.irfft((self._weights * self._spectra).sum(axis=0))[WINDOW:]
        left = (window - echo).astype(np.float32)
        self._learn(left)
        return left

    def _load(self, reference: Playback, begin: int) -> None:
        parts = 1 if self._next == begin else self.PARTS
        for part in reversed(range(parts)):
            self._spectra[1:] = self._spectra[:-1]
            start = begin - part * WINDOW
            self._spectra[0] = np.fft.rfft(reference.slice(start - WINDOW, start + WINDOW))
        self._next = begin + WINDOW

    def _learn(self, left: Float) -> None:
        self.learnt += 1
        error = np.fft.rfft(np.concatenate((np.zeros(WINDOW, np.float32), left))).astype(np.complex64)
        self._noise = 0.5 * self._noise + 0.5 * (error.real**2 + error.imag**2)
        power = self._spectra.real**2 + self._spectra.imag**2
        residual = 0.5 * (self._doubt * power).sum(axis=0)
        self.residual = float(residual.sum()) / (self._SIZE // 2 * WINDOW)
        scale = self._doubt / (residual + self._noise + 1e-6)
        self._weights += scale * np.conj(self._spectra) * error
        keep = self._FORGET**2
        self._doubt = keep * (1 - 0.5 * scale * power) * self._doubt + (1 - keep) * np.abs(self._weights) ** 2
        # One partition a window is brought back to causality; all of them in turn.
        taps = np.fft.irfft(self._weights[self._turn])
        taps[WINDOW:] = 0
        self._weights[self._turn] = np.fft.rfft(taps)
        self._turn = (self._turn + 1) % self.PARTS
