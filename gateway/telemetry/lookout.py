"""What a thread is at while it stands still: seen from another one, since it cannot say so itself."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import FrameType

_DEEPEST = 8
"""Frames that a line shows, the innermost first."""
_LAST_LOOK_S = 1.0


class Lookout:
    """`start()` on the thread to be watched, `beat()` again and again, `stop()`.

    Its thread sleeps until a beat is missed; while they come it wakes once in that time, to sleep on. What
    holds the interpreter's lock (C code that does not let go of it) cannot be seen: then `take` is empty.
    """

    def __init__(self, missed_s: float) -> None:
        """missed_s: without a beat for so long, the thread stands still."""
        self._missed_s = missed_s
        self._beat_s = 0.0
        self._watched = 0
        self._seen = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._watched, self._beat_s = threading.get_ident(), time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._over,), name="lookout", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        self._beat_s = time.monotonic()

    def take(self) -> str:
        """What was seen since it was last asked; empty: nothing."""
        seen, self._seen = self._seen, ""
        return seen

    def stop(self) -> None:
        """Its thread is gone afterwards: it does nothing but wait, and looks for microseconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            thread.join(_LAST_LOOK_S)

    def _run(self, over: threading.Event) -> None:
        looked_at = 0.0
        wait_s = self._missed_s
        while not over.wait(wait_s):
            beat_s = self._beat_s
            wait_s = beat_s + self._missed_s - time.monotonic()
            if wait_s > 0:
                continue
            wait_s = self._missed_s
            if beat_s != looked_at:  # one look at each stall
                looked_at = beat_s
                self._seen = _stack(sys._current_frames().get(self._watched))


def _stack(frame: FrameType | None) -> str:
    found: list[str] = []
    while frame is not None and len(found) < _DEEPEST:
        code = frame.f_code
        file = "/".join(Path(code.co_filename).parts[-2:])
        found.append(f"{file}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)
