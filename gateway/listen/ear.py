"""From microphone bytes to windows with a verdict: the front half of listening, one per session.

bytes → whole samples → 16 kHz → windows of 32 ms → echo guard → noise gate → shared detector. What
the recogniser gets is the audio before guard and gate; they only keep the detector honest. Time is
counted in windows of input audio, so a closed gate or a late detector never shifts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gateway.audio.pcm import Float, Int16, SampleCarry, to_int16
from gateway.audio.resample import borrow, give_back
from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW, Vad
from gateway.settings import VadSettings

WINDOW_MS = WINDOW * 1000 // RATE
_WINDOW_BYTES = 2 * WINDOW
_PCM16 = np.dtype("<i2")
_TO_FLOAT = np.float32(1 / 32768)
_TO_POWER = 1 / 32768**2 / WINDOW
_SILENT_WINDOW = bytes(_WINDOW_BYTES)
_scratch: Float = np.empty(WINDOW, np.float32)
"""For the event loop's thread, within one call: a window's own 2 kB come cold from the heap, and cost
more than all that is done with them."""
_RING_WINDOWS = 96
"""About 3 s: pre-roll plus the most a detector may be behind."""


class Guard(Protocol):
    """The echo guard, as a session knows it."""

    @property
    def delay_ms(self) -> float | None:
        """Of our own echo, while one is known."""
        ...

    def played(self, pcm: bytes) -> None:
        """What was sent to the client, PCM16 at its rate, in the order of time."""
        ...

    def concerns(self, window: Float | Int16, power: float) -> bool:
        """Whether the next window may have our echo in it: then it goes through `clean`."""
        ...

    def clean(self, window: Float, power: float) -> Float: ...

    def close(self) -> None: ...


class Gate(Protocol):
    def passes(self, power: float, factor: float) -> bool:
        """Whether a window with this mean square is let through."""
        ...


@dataclass(slots=True)
class Window:
    """The detector's verdict on 32 ms of input."""

    index: int
    """Counts windows since the session began."""
    probability: float
    """Of speech, 0…1."""
    arrived_s: float
    """Loop time at which its last sample came in."""

    @property
    def end_ms(self) -> int:
        return (self.index + 1) * WINDOW_MS


class Ear:
    """Takes bytes, hands out verdicts; keeps the last seconds of audio for pre-roll."""

    def __init__(
        self,
        vad: Vad,
        settings: VadSettings,
        *,
        input_rate: int,
        guard: Guard | None,
        gate: Gate | None,
        on_window: Callable[[Window], None],
    ) -> None:
        self._resampler = None if input_rate == RATE else borrow(input_rate, RATE)
        self._carry = SampleCarry()
        self._pending = b""
        self._guard, self._gate, self._on_window = guard, gate, on_window
        self._arrived: deque[float] = deque()  # of windows at the detector
        self._judged = 0  # windows before these
        self._ring: deque[bytes] = deque(maxlen=_RING_WINDOWS)
        self._kept = settings.pre_roll_ms // WINDOW_MS + settings.onset_windows
        """Windows in the ring before those at the detector: as far back as an onset may reach."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._waiter: asyncio.Event | None = None
        self._closed = False
        self._stream = vad.open(self._on_probability)
        self.gate_factor = 1.0
        """Of the gate's margin; follows the session's state."""
        self.tap: Callable[[bytes], None] | None = None
        """Gets every window's PCM16 at 16 kHz from now on, before its verdict."""
        self.least = 0.0
        """Verdicts below this probability are of no interest: `on_window` does not get them."""

    def feed(self, pcm: bytes) -> None:
        """PCM16 at the input rate, any length; an odd byte waits for its other half."""
        if self._closed:
            return
        if self._resampler is not None:
            whole = self._carry.feed(pcm)
            pcm = self._resampler.push(to_int16(whole)).tobytes() if whole else b""
        pending = self._pending
        at = _WINDOW_BYTES - len(pending)
        if len(pcm) < at:
            self._pending = pending + pcm
            return
        self._push(pending + pcm[:at])
        while len(pcm) - at >= _WINDOW_BYTES:
            self._push(pcm[at : at + _WINDOW_BYTES])
            at += _WINDOW_BYTES
        self._pending = pcm[at:]

    def feed_silence(self, ms: int) -> None:
        """The client sent nothing for this long: the detector's clock goes on."""
        for _ in range(0 if self._closed else ms // WINDOW_MS):
            self._push(_SILENT_WINDOW)

    def since(self, index: int) -> list[bytes]:
        """PCM16 windows from window `index` on, as far back as they are kept."""
        oldest = self._judged + len(self._arrived) - len(self._ring)
        return list(self._ring)[max(0, index - oldest) :]

    async def answered(self, within_s: float) -> None:
        """Returns once the detector has judged everything fed so far, or after `within_s`."""
        self._waiter = asyncio.Event()
        try:
            async with asyncio.timeout(within_s):
                while self._arrived:
                    self._waiter.clear()
                    await self._waiter.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Nothing is told after this, and what comes in is not heard."""
        self._closed = True
        self._stream.close()
        # Not left to the collector: of a session that has ended, little is to stay.
        self._on_window, self.tap = _nobody, None
        self._ring.clear()
        if self._guard is not None:
            self._guard.close()
        if self._resampler is not None:
            give_back(self._resampler)
            self._resampler = None

    def _push(self, pcm: bytes) -> None:
        ring = self._ring
        ring.append(pcm)
        if self.tap is not None:
            self.tap(pcm)
        samples = np.frombuffer(pcm, _PCM16)
        _scratch[:] = samples  # in int16 units: scaling by a power of two changes no digit
        power = float(_scratch.dot(_scratch)) * _TO_POWER
        cleaned: Float | None = None
        if self._guard is not None and self._guard.concerns(samples, power):
            floats = np.multiply(samples, _TO_FLOAT, dtype=np.float32)
            cleaned = self._guard.clean(floats, power)
            if cleaned is floats:
                cleaned = None
            else:
                power = float(np.dot(cleaned, cleaned)) / WINDOW
        passes = self._gate is None or self._gate.passes(power, self.gate_factor)
        if passes and power != 0.0:
            self._arrived.append(self._now())
            if cleaned is None:
                self._stream.push_pcm(samples)
            else:
                self._stream.push(cleaned)
            return
        before = len(self._arrived)
        if not self._stream.push_silence():
            # Nothing of it is called before this returns.
            self._arrived.append(self._now())
        elif before or self.least <= 0.0:
            self._arrived.append(self._now())
            self._loop.call_soon(self._on_silence)
        else:  # as most of the time: nobody speaks, and nobody asks
            self._judged += 1
            if len(ring) > self._kept:
                ring.popleft()

    def _on_silence(self) -> None:
        if not self._closed:
            self._on_probability(0.0)

    def _on_probability(self, probability: float) -> None:
        arrived = self._arrived.popleft()
        index = self._judged
        self._judged = index + 1
        ring, needed = self._ring, self._kept + len(self._arrived)
        while len(ring) > needed:
            ring.popleft()
        if self._waiter is not None and not self._arrived:
            self._waiter.set()
        if probability >= self.least:
            self._on_window(Window(index, probability, arrived))


def _nobody(window: Window) -> None:
    """Listens when the session is over."""
