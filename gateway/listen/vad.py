"""What a session asks of a voice activity detector. `silero.py` is the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

WINDOW = 512
"""Samples of one detection window: 32 ms at 16 kHz."""


class VadStream(Protocol):
    """One session's detector state in the shared batch."""

    def push(self, window: npt.NDArray[np.float32]) -> None:
        """Queue one window (float32 [512], −1…1). Never blocks. Raises ValueError on another shape."""
        ...

    def push_pcm(self, samples: npt.NDArray[np.int16]) -> None:
        """The same of int16 [512], which must not change any more: at a lower price."""
        ...

    def push_silence(self) -> bool:
        """The same of a window of zeros. True when its probability is 0 at once: then no call tells it."""
        ...

    def close(self) -> None: ...


class Vad(Protocol):
    """One per process: runs all streams' windows in batches, in a worker thread."""

    def open(self, on_probability: Callable[[float], None]) -> VadStream:
        """`on_probability` is called on the event loop, once per pushed window, in order, with 0…1."""
        ...

    @property
    def backlog_ms(self) -> float:
        """Age of the oldest window not yet answered: the first sign of overload."""
        ...

    async def close(self) -> None: ...
