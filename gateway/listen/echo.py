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
from typing import cast

import numpy as np

from gateway.audio.pcm import Float, Int16
from gateway.listen.asr import RATE
from gateway.listen.echo_path import HELPED, EchoPath
from gateway.listen.playback import Playback
from gateway.listen.vad import WINDOW
from gateway.settings import EchoSettings

_AHEAD = RATE * 60 // 1000
"""Playout normally runs this far ahead of the input (the pacing lead)."""
_BEHIND_LIMIT = RATE * 160 // 1000
"""Further ahead, and input does not catch up: it was lost, not late."""
_STEADY = 5
"""Windows in a row that tell this."""
_MOST_AHEAD = RATE * 3
_HISTORY = 4
"""Windows of input that the correlation looks at (128 ms)."""
_ROOM = RATE * 300 // 1000
"""An echo may ring on this long after its delay."""
_QUIET_POWER = 1e-7
"""−70 dBFS: nothing that a detector could take for speech."""
_LEAST_FLOOR = _QUIET_POWER / 10
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
_CLEAR = 0.08
"""Far below what an echo reaches: somebody speaks, and not by our loudspeaker."""
_LOOKS = ((4, 6), (2, 2))
"""After so many clear looks in a row while we play, so many windows are not compared: it is dear."""
_EXPLAINED = 0.2
"""−7 dB: with less than this left, the window was echo."""
_DOUBTED = 2.0
"""With less left than twice what the filter itself is unsure of, it may be all echo."""
_FORGET_EVERY = 4 * WINDOW
"""What was played is let go of in steps."""
_GLANCE = 64
"""Bytes of playout that mostly tell already that it is no silence."""
_TO_FLOAT = np.float32(1 / 32768)
_NOTHING: Int16 = np.zeros(WINDOW, np.int16)
_NOTHING.flags.writeable = False


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

    def __init__(self, settings: EchoSettings, rate: int = RATE) -> None:
        """rate: Hz of what is played."""
        self._enabled = settings.enabled
        self._max_delay = RATE // 1000 * settings.max_delay_ms + WINDOW
        self._past = self._max_delay + (_HISTORY + 8) * WINDOW + _ROOM
        self._reference = Playback(rate, self._past, _MOST_AHEAD)
        self._input_at = 0
        self._active_until = 0
        self._ahead: deque[int] = deque(maxlen=_STEADY)
        self._at = 0  # where the window begins that was asked about last
        self._forget_at = 0
        # int16 as it came, or float32: few windows are ever looked at, so few are converted.
        self._input: deque[Float | Int16] = deque([_NOTHING] * _HISTORY, _HISTORY)
        self._left: deque[Float | Int16] = deque([_NOTHING] * _HISTORY, _HISTORY)
        self._echo_power: deque[float] = deque([0.0] * _HISTORY, _HISTORY)
        self._floor = 1.0
        self._filter: EchoPath | None = None
        self._clear = self._skip = 0
        self.delay_ms: float | None = None
        """Of the echo path, once it is known."""

    def played(self, pcm: bytes) -> None:
        """What goes out now: PCM16, in the order sent."""
        if not self._enabled or not pcm:
            return
        if self._reference.end < self._input_at:
            self._reference.skip_to(self._input_at)
        self._reference.append(pcm)
        if pcm.count(0, 0, _GLANCE) < min(_GLANCE, len(pcm)) or pcm.count(0) < len(pcm):
            if self._active_until < self._input_at:
                self._clear = self._skip = 0
            self._active_until = self._reference.end + self._max_delay + _ROOM
        if self._reference.end - self._input_at > _MOST_AHEAD - RATE:
            self._input_at = self._reference.end - _AHEAD

    def close(self) -> None:
        """The session is over."""
        self._enabled, self._filter = False, None
        self._reference.close()

    def concerns(self, window: Float | Int16, power: float) -> bool:
        """Whether the next input window [512] may have our echo in it: then `clean` has to look at it.

        power: its mean square, full scale being 1."""
        if not self._enabled:
            return False
        at = self._input_at
        if at <= self._active_until:
            self._keep_in_step()
            at = self._input_at
        elif self._ahead:
            self._ahead.clear()
        self._at, self._input_at = at, at + WINDOW
        if at >= self._forget_at:
            self._forget_at = at + _FORGET_EVERY
            self._reference.forget(at - self._past)
        self._input.append(window)
        self._floor = min(self._floor * 1.01, power if power > _LEAST_FLOOR else _LEAST_FLOOR)
        if at <= self._active_until and power >= _QUIET_POWER:
            return True
        self._left.append(window)
        self._echo_power.append(0.0)
        return False

    def clean(self, window: Float, power: float) -> Float:
        """That window, −1…1, without our echo, or zeros when it was nothing else."""
        at, left, left_power = self._at, window, power
        if self._filter is not None:
            left = self._filter.subtract(self._reference, at, window)
            left_power = _power(left)
            if left_power > power:
                left, left_power = (
                    window,
                    power,
                )  # the filter errs: it must not put an echo where there is none
        self._left.append(left)
        self._echo_power.append(0.0 if left is window else _power(window - left))
        return left if self._is_foreign(at, power, left_power) else np.zeros_like(window)

    def suppress(self, window: Float) -> Float:
        """Both: one input window, float32 [512], in, and out without our echo."""
        power = _power(window)
        return self.clean(window, power) if self.concerns(window, power) else window

    def _is_foreign(self, at: int, power: float, left_power: float) -> bool:
        """Whether what is left of a window is somebody else's sound."""
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
        elif left_power < HELPED * power:
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

    def _look_for_shift(self, at: int, path: EchoPath) -> bool:
        """The same room at another delay: a new reply, or a client that buffers more or less than before."""
        found = self._explained(self._input, at, path)
        if found.share < _OURS_MOVED or found.share < 1.2 * found.share_unmoved:
            return False
        path.move(found.delay)
        self.delay_ms = path.delay * 1000 / RATE
        return True

    def _look_for_path(self, at: int) -> bool:
        """A room not heard before."""
        if self._skip:
            self._skip -= 1
            return False
        found = self._explained(self._input, at)
        self._clear = self._clear + 1 if found.share < _CLEAR else 0
        self._skip = next((windows for looks, windows in _LOOKS if self._clear >= looks), 0)
        if self._filter is None:
            if found.share < _OURS_FIRST:
                return False
        elif found.share < _OURS_ELSEWHERE or abs(found.delay - self._filter.delay) <= EchoPath.MARGIN:
            return False
        self._filter = EchoPath(found.delay, found.gain)
        self.delay_ms = found.delay * 1000 / RATE
        return True

    def _explained(self, windows: deque[Float | Int16], at: int, path: EchoPath | None = None) -> _Match:
        """How well playout explains the windows, of which the last begins at `at`.

        path: playout goes through this filter first; delays are then relative to the filter's own.
        """
        heard = _whiten(np.concatenate([_floats(window) for window in windows]))
        begin = at + WINDOW - _HISTORY * WINDOW - self._max_delay
        sent = _whiten(self._reference.slice(begin, at + WINDOW))
        step = 1
        if path is None:  # for a first look every second sample will do, at less than half the price
            heard, sent, step = _halved(heard), _halved(sent), 2
        size = _fft_size(sent.size)
        spectrum = np.fft.rfft(sent, size)
        if path is not None:
            spectrum *= np.fft.rfft(path.taps(), size)
            sent = np.fft.irfft(spectrum, size)[: sent.size].astype(np.float32)
        delays = self._max_delay // step
        spectrum *= np.conj(np.fft.rfft(heard, size))
        products = np.fft.irfft(spectrum, size)[: delays + 1]
        total = np.zeros(sent.size + 1)
        np.cumsum(np.multiply(sent, sent, dtype=np.float64), out=total[1:])
        energy = total[heard.size :] - total[: -heard.size]
        np.maximum(energy, 1e-6, out=energy)
        shares = products * products
        shares /= energy * max(float(np.dot(heard, heard)), 1e-9)
        best = int(np.argmax(shares))
        already = path.begins_after if path is not None else 0
        return _Match(
            share=float(shares[best]),
            delay=(delays - best) * step - already,
            gain=float(products[best] / energy[best]),
            share_unmoved=float(shares[delays - already]) if path is not None else 0.0,
        )

    def _keep_in_step(self) -> None:
        """The way from our loudspeaker is in use."""
        ahead = self._reference.end - self._input_at
        self._ahead.append(ahead)
        if ahead <= _BEHIND_LIMIT or len(self._ahead) < _STEADY:
            return
        catching_up = self._ahead[0] - ahead > 2 * WINDOW
        if not catching_up and min(self._ahead) > _BEHIND_LIMIT:
            self._input_at += min(self._ahead) - _AHEAD
            self._ahead.clear()


def _whiten(samples: Float) -> Float:
    """Speech has most of its power below 1 kHz, where speakers resemble each other. More than 0.8 would
    let the room's noise hide an echo."""
    whitened = samples.copy()
    whitened[1:] -= np.float32(0.8) * samples[:-1]
    return whitened


def _halved(samples: Float) -> Float:
    """At half the rate; the mean of two keeps the upper half from folding over the lower."""
    return (samples[0::2] + samples[1::2]) * np.float32(0.5)


def _floats(window: Float | Int16) -> Float:
    if window.dtype == np.float32:
        return cast(Float, window)
    return np.multiply(window, _TO_FLOAT, dtype=np.float32)


def _power(samples: Float) -> float:
    return float(np.dot(samples, samples)) / samples.size


def _fft_size(least: int) -> int:
    """The next of 2^n, 3·2^n, 5·2^n."""
    size = 1 << (least - 1).bit_length()
    return min(s for s in (size, size // 4 * 3, size // 8 * 5) if s >= least)
