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
import numpy.typing as npt

from gateway.audio.pcm import SampleCarry, to_int16
from gateway.audio.resample import borrow, give_back
from gateway.listen.asr import RATE
from gateway.listen.vad import WINDOW, Vad
from gateway.settings import VadSettings

WINDOW_MS = WINDOW * 1000 // RATE
_WINDOW_BYTES = 2 * WINDOW
_TO_FLOAT = np.float32(1 / 32768)
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

    def suppress(
        self, window: npt.NDArray[np.float32], power: float | None = None
    ) -> npt.NDArray[np.float32]: ...

    def close(self) -> None: ...


class Gate(Protocol):
    def process(
        self, window: npt.NDArray[np.float32], factor: float, power: float | None = None
    ) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
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
        self._settings = settings
        self._resampler = None if input_rate == RATE else borrow(input_rate, RATE)
        self._carry = SampleCarry()
        self._pending = b""
        self._guard, self._gate, self._on_window = guard, gate, on_window
        self._waiting: deque[tuple[int, float]] = deque()  # (index, arrival) of windows at the detector
        self._ring: deque[bytes] = deque(maxlen=_RING_WINDOWS)
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._stream = vad.open(self._on_probability)
        self.gate_factor = 1.0
        """Of the gate's margin; follows the session's state."""
        self.tap: Callable[[bytes], None] | None = None
        """Gets every window's PCM16 at 16 kHz from now on, before its verdict."""

    def feed(self, pcm: bytes) -> None:
        """PCM16 at the input rate, any length; an odd byte waits for its other half."""
        if self._resampler is not None:
            whole = self._carry.feed(pcm)
            pcm = self._resampler.push(to_int16(whole)).tobytes() if whole else b""
        data = self._pending + pcm
        at, last = 0, len(data) - _WINDOW_BYTES
        while at <= last:
            self._push(data[at : at + _WINDOW_BYTES])
            at += _WINDOW_BYTES
        self._pending = data[at:]

    def feed_silence(self, ms: int) -> None:
        """The client sent nothing for this long: the detector's clock goes on."""
        for _ in range(ms // WINDOW_MS):
            self._push(bytes(_WINDOW_BYTES))

    def since(self, index: int) -> list[bytes]:
        """PCM16 windows from window `index` on, as far back as they are kept."""
        oldest = self._count - len(self._ring)
        return list(self._ring)[max(0, index - oldest) :]

    async def answered(self, within_s: float) -> None:
        """Returns once the detector has judged everything fed so far, or after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while self._waiting:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        self._stream.close()
        if self._guard is not None:
            self._guard.close()
        if self._resampler is not None:
            give_back(self._resampler)
            self._resampler = None

    def _push(self, pcm: bytes) -> None:
        self._ring.append(pcm)
        self._waiting.append((self._count, self._loop.time()))
        self._count += 1
        if self.tap is not None:
            self.tap(pcm)
        window = np.frombuffer(pcm, "<i2").astype(np.float32)
        window *= _TO_FLOAT
        power: float | None = float(np.dot(window, window)) / WINDOW
        if self._guard is not None:
            heard, window = window, self._guard.suppress(window, power)
            power = power if window is heard else None
        if self._gate is not None:
            window = self._gate.process(window, self.gate_factor, power)
        self._stream.push(window)

    def _on_probability(self, probability: float) -> None:
        index, arrived = self._waiting.popleft()
        if not self._waiting:
            self._answered.set()
        self._on_window(Window(index, probability, arrived))
