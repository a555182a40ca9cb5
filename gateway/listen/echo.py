"""Server-side echo defence: our own playout coming back through the microphone is no speech.

Two parts. An adaptive filter (a frequency-domain Kalman filter over 160 ms of room, aligned to the
echo's delay) subtracts what of the microphone is explained by the playout; what is left decides. Where
the filter does not know the path yet, or no more, a whitened cross-correlation over all delays tells
our own voice from another's: measured on 128 ms of speech, another speaker's explains at most 20 %
of the power, an echo at least 25 %, mostly more than 50 %.

Time is the microphone's: playout is placed where the input stands when it is sent. A transport that
stalls and catches up changes nothing; one that loses input is noticed by how far playout runs ahead.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW
from gateway.settings import EchoSettings

Float = npt.NDArray[np.float32]

_AHEAD = RATE * 60 // 1000
"""Playout normally runs this far ahead of the input (the pacing lead)."""
_BEHIND_LIMIT = RATE * 160 // 1000
"""Further ahead, and input does not catch up: it was lost, not late."""
_MOST_AHEAD = RATE * 3
_HISTORY = 4
"""Windows of input that the correlation looks at (128 ms)."""
_ROOM = RATE * 300 // 1000
"""An echo may ring on this long after its delay."""
_QUIET_POWER = 1e-7
"""−70 dBFS: nothing that a detector could take for speech."""
_NOISE = 2.0
"""3 dB above the quietest input of the last seconds is noise."""
_OURS = 0.22
"""Share of the power explained by playout at one delay that no other speaker reaches."""
_OURS_FIRST = 0.18
"""The same before any path is known: the first syllables of a session's first reply are few and weak."""
_OURS_ELSEWHERE = 0.35
"""The same for giving up a path in favour of another."""
_OURS_MOVED = 0.3
"""The same, of playout that went through the path already learnt."""
_EXPLAINED = 0.2
"""−7 dB: with less than this left, the window was echo."""
_DOUBTED = 2.0
"""With less left than twice what the filter itself is unsure of, it may be all echo."""
_HELPED = 0.7
"""With more than this left, the filter knows nothing of this path."""
_TAIL = 0.10
"""−10 dB below the echo of the last windows: its reverberation."""
_YOUNG_TAIL = 0.4
_YOUNG_WINDOWS = 40
"""A filter that has learnt for less than 1.3 s knows little of the reverberation yet."""


@dataclass(frozen=True, slots=True)
class _Match:
    """What playout has to do with some input."""

    share: float
    """Of the input's power that playout at one delay explains, 0…1."""
    delay: int
    """That delay in samples."""
    gain: float
    """Of playout at that delay."""
    share_unmoved: float
    """The share at delay 0."""


class EchoGuard:
    """One per session. `played` and `suppress` are called in the order in which things happen."""

    def __init__(self, settings: EchoSettings) -> None:
        self._enabled = settings.enabled
        self._max_delay = RATE * settings.max_delay_ms // 1000 + WINDOW
        self._reference = _Timeline(self._max_delay + (_HISTORY + 8) * WINDOW + _ROOM, _MOST_AHEAD)
        self._input_at = 0
        self._active_until = 0
        self._ahead: deque[int] = deque(maxlen=5)
        self._input: deque[Float] = deque([np.zeros(WINDOW, np.float32)] * _HISTORY, _HISTORY)
        self._left: deque[Float] = deque([np.zeros(WINDOW, np.float32)] * _HISTORY, _HISTORY)
        self._echo_power: deque[float] = deque([0.0] * _HISTORY, _HISTORY)
        self._floor = 1.0
        self._filter: _Filter | None = None
        self.delay_ms: float | None = None
        """Of the echo path, once it is known."""

    def played(self, pcm: Float) -> None:
        """What goes out now: float32 [n] at 16 kHz, in the order sent."""
        if not self._enabled or not pcm.size:
            return
        if self._reference.end < self._input_at:
            self._reference.skip_to(self._input_at)
        self._reference.append(pcm)
        if float(np.max(np.abs(pcm))) > 1e-4:
            self._active_until = self._reference.end + self._max_delay + _ROOM
        if self._reference.end - self._input_at > _MOST_AHEAD - RATE:
            self._input_at = self._reference.end - _AHEAD

    def suppress(self, window: Float) -> Float:
        """One input window, float32 [512]: without our echo, or zeros when it was nothing else."""
        if not self._enabled:
            return window
        self._keep_in_step()
        at = self._input_at
        self._input_at += WINDOW
        self._input.append(window)
        self._floor = min(self._floor * 1.01, max(_power(window), _QUIET_POWER / 10))
        if at > self._active_until:
            self._left.append(window)
            return window
        left = self._filter.subtract(self._reference, at, window) if self._filter else window
        self._left.append(left)
        return left if self._is_foreign(at, window, left) else np.zeros_like(window)

    def _is_foreign(self, at: int, window: Float, left: Float) -> bool:
        """Whether what is left of a window is somebody else's sound."""
        power, left_power = _power(window), _power(left)
        self._echo_power.append(_power(window - left))
        if left_power < _QUIET_POWER or left_power < _NOISE * self._floor:
            return True  # the room's own noise: the gate's and the detector's business
        if self._filter is not None:
            self._filter.judge(left_power / power)
        if self._filter is None:
            ours = self._look_for_path(at)
        elif (
            left_power < _EXPLAINED * power
            or left_power < self._filter.tail * max(self._echo_power)
            or left_power < _DOUBTED * self._filter.residual
        ):
            ours = True
        elif left_power < _HELPED * power:
            # The path is right: either it is not learnt well yet, or somebody else is there too.
            ours = self._explained(self._left, at).share >= _OURS
        else:
            ours = (
                self._look_for_shift(at, self._filter)
                or self._look_for_path(at)
                or self._explained(self._left, at).share >= _OURS
            )
        if ours:
            self._echo_power[-1] = power
        elif self._filter is not None and self._filter.is_mistaken():
            self._filter = self.delay_ms = None
        return not ours

    def _look_for_shift(self, at: int, path: _Filter) -> bool:
        """The same room at another delay: a new reply, or a client that buffers more or less than before."""
        found = self._explained(self._input, at, path)
        if found.share < _OURS_MOVED or found.share < 1.2 * found.share_unmoved:
            return False
        path.move(found.delay)
        self.delay_ms = path.delay * 1000 / RATE
        return True

    def _look_for_path(self, at: int) -> bool:
        """A room not heard before."""
        found = self._explained(self._input, at)
        if self._filter is None:
            if found.share < _OURS_FIRST:
                return False
        elif found.share < _OURS_ELSEWHERE or abs(found.delay - self._filter.delay) <= _Filter.MARGIN:
            return False
        self._filter = _Filter(found.delay, found.gain)
        self.delay_ms = found.delay * 1000 / RATE
        return True

    def _explained(self, windows: deque[Float], at: int, path: _Filter | None = None) -> _Match:
        """How well playout explains the windows, of which the last begins at `at`.

        path: playout goes through this filter first; delays are then relative to the filter's own.
        """
        heard = _whiten(np.concatenate(windows))
        begin = at + WINDOW - _HISTORY * WINDOW - self._max_delay
        sent = _whiten(self._reference.slice(begin, at + WINDOW))
        size = _fft_size(sent.size)
        spectrum = np.fft.rfft(sent, size)
        if path is not None:
            spectrum *= np.fft.rfft(path.taps(), size)
            sent = np.fft.irfft(spectrum, size)[: sent.size].astype(np.float32)
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(heard, size)), size)[: self._max_delay + 1]
        energy = np.concatenate(([0.0], np.cumsum(sent.astype(np.float64) ** 2)))
        energy = np.maximum(energy[heard.size :] - energy[: -heard.size], 1e-6)
        shares = products**2 / (energy * max(float(np.dot(heard, heard)), 1e-9))
        best = int(np.argmax(shares))
        already = path.begins_after if path is not None else 0
        return _Match(
            share=float(shares[best]),
            delay=self._max_delay - best - already,
            gain=float(products[best] / energy[best]),
            share_unmoved=float(shares[self._max_delay - already]),
        )

    def _keep_in_step(self) -> None:
        if self._input_at > self._active_until:
            self._ahead.clear()
            return
        self._ahead.append(self._reference.end - self._input_at)
        full = len(self._ahead) == self._ahead.maxlen
        catching_up = self._ahead[0] - self._ahead[-1] > 2 * WINDOW
        if full and not catching_up and min(self._ahead) > _BEHIND_LIMIT:
            self._input_at += min(self._ahead) - _AHEAD
            self._ahead.clear()


class _Filter:
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
        self._helped += left < _HELPED

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

    def subtract(self, reference: _Timeline, at: int, window: Float) -> Float:
        """The window that begins at `at`, without the echo expected; then learns from what is left."""
        self._load(reference, at - self.begins_after)
        echo = np.fft.irfft((self._weights * self._spectra).sum(axis=0))[WINDOW:]
        left = (window - echo).astype(np.float32)
        self._learn(left)
        return left

    def _load(self, reference: _Timeline, begin: int) -> None:
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


class _Timeline:
    """Samples by absolute position: `past` before the newest read, `ahead` beyond it; zeros elsewhere."""

    def __init__(self, past: int, ahead: int) -> None:
        self._ring = np.zeros(past + ahead, np.float32)
        self.end = 0

    def append(self, samples: Float) -> None:
        self.end += max(0, samples.size - self._ring.size)
        samples = samples[-self._ring.size :]
        first = self.end % self._ring.size
        head = min(samples.size, self._ring.size - first)
        self._ring[first : first + head] = samples[:head]
        self._ring[: samples.size - head] = samples[head:]
        self.end += samples.size

    def skip_to(self, position: int) -> None:
        gap = position - self.end
        self.append(np.zeros(min(gap, self._ring.size), np.float32))
        self.end = position

    def slice(self, begin: int, end: int) -> Float:
        """float32 [end - begin]."""
        positions = np.arange(begin, end)
        known = (positions < self.end) & (positions >= max(0, self.end - self._ring.size))
        return np.where(known, self._ring[positions % self._ring.size], np.float32(0))


def _whiten(samples: Float) -> Float:
    """Speech has most of its power below 1 kHz, where speakers resemble each other. More than 0.8 would
    let the room's noise hide an echo."""
    return samples[1:] - np.float32(0.8) * samples[:-1]


def _power(samples: Float) -> float:
    return float(np.dot(samples, samples)) / samples.size


def _fft_size(least: int) -> int:
    """The next of 2^n, 3·2^n, 5·2^n."""
    size = 1 << (least - 1).bit_length()
    return min(s for s in (size, size // 4 * 3, size // 8 * 5) if s >= least)
