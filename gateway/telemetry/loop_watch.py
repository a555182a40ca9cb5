"""How late the event loop runs its timers, how busy its thread is, and an alarm when it stands still.

Something that blocks the loop delays every session of the process at once. A timer that asks to be
called every `beat_s` and looks at the clock sees it, whatever it was. A loop that never rests is at
its end even while its timers are on time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from gateway.telemetry.lookout import Lookout

log = logging.getLogger(__name__)

ALARM_S = 0.25
"""Standing still for this long is logged and counted, where nothing else is said: a frame has 20 ms."""
_QUIET_S = 10.0
"""At most one such line in this time; the ones between are counted."""


class LoopWatch:
    """`start()` on the loop to be watched … `stop()`."""

    def __init__(
        self,
        beat_s: float,
        on_beat: Callable[[float, float], None],
        busy_s: Callable[[], float] | None = None,
        *,
        stall_s: float = ALARM_S,
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        """on_beat: called on every beat with the loop's lag (s) and the seconds for which its thread was
        busy since the last beat; must not raise. busy_s: a clock of the thread's own; default: the
        system's. stall_s: standing still for so long is logged, with what the thread was at, and told."""
        self._beat_s = beat_s
        self._on_beat = on_beat
        self._own_clock = _BusyClock()
        self._busy_s = busy_s or self._own_clock.read
        self._was_busy_s = 0.0
        self._starting = True
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._said_at = -_QUIET_S
        self._unsaid, self._worst_s, self._worst_at = 0, 0.0, ""
        self._stall_s, self._on_stall = stall_s, on_stall
        self._lookout = Lookout(stall_s + beat_s)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._own_clock.open()
        self._starting = True  # what a process does once at its start delays nobody
        self._due = loop.time() + self._beat_s
        self._timer = loop.call_at(self._due, self._beat, loop)
        self._lookout.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lookout.stop()
        self._own_clock.close()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        lag_s = max(0.0, now - self._due)
        self._lookout.beat()
        # From now on, not from when it was due: after a stall the timer does not chase what it missed.
        self._due = now + self._beat_s
        self._timer = loop.call_at(self._due, self._beat, loop)
        if self._starting:
            self._starting, self._was_busy_s = False, self._busy_s()
            self._lookout.take()
            return
        if lag_s >= self._stall_s:
            self._on_stall()
            self._unsaid += 1
            seen = self._lookout.take()
            if lag_s > self._worst_s:
                self._worst_s, self._worst_at = lag_s, seen
        if self._unsaid and now - self._said_at >= _QUIET_S:
            log.warning(
                "the event loop stood still for %.0f ms (%d stalls since the last such line): every session waited",
                self._worst_s * 1000,
                self._unsaid,
                extra={"at": self._worst_at or "nothing seen: C code that holds the interpreter, or no core"},
            )
            self._said_at, self._unsaid, self._worst_s, self._worst_at = now, 0, 0.0, ""
        before_s, self._was_busy_s = self._was_busy_s, self._busy_s()
        self._on_beat(lag_s, self._was_busy_s - before_s)


class _BusyClock:
    """Seconds for which the thread that opened it has run, or has waited for a core while it could run."""

    def __init__(self) -> None:
        self._file: int | None = None

    def open(self) -> None:
        with contextlib.suppress(OSError):  # Linux only; elsewhere the time that it ran
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self) -> float:
        if self._file is None:
            return time.thread_time()
        ran, waited, _ = os.pread(self._file, 128, 0).split()
        return (int(ran) + int(waited)) / 1e9
