"""Faster or slower speech at the same pitch, as it is made: FFmpeg's atempo (overlap-add)."""

from __future__ import annotations

import math
from typing import cast

import av
import av.filter
import numpy as np

from gateway.audio.pcm import Int16

_MOST, _LEAST = 2.0, 0.5
"""Of one pass: beyond it whole periods would be skipped."""


class Stretcher:
    """One stream of mono int16 at `rate` Hz, `speed` times as fast. Holds back some 50 ms."""

    def __init__(self, rate: int, speed: float) -> None:
        """Raises ValueError for a speed outside 0.1 … 10."""
        if not 0.1 <= speed <= 10:
            raise ValueError(f"speech cannot be made {speed:g} times as fast: use 0.1 to 10")
        self._rate, self._taken = rate, 0
        graph = av.filter.Graph()
        last = graph.add_abuffer(sample_rate=rate, format="s16", layout="mono")
        for tempo in _passes(speed):
            atempo = graph.add("atempo", f"{tempo:.6f}")
            last.link_to(atempo)
            last = atempo
        # atempo may choose another sample format.
        form = graph.add("aformat", "sample_fmts=s16:channel_layouts=mono")
        last.link_to(form)
        form.link_to(graph.add("abuffersink"))
        graph.configure()
        self._graph = graph

    def push(self, samples: Int16) -> Int16:
        """What int16 [n] completes."""
        if samples.size:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout="mono"
            )
            frame.sample_rate = self._rate
            frame.pts = self._taken
            self._taken += samples.size
            self._graph.push(frame)
        return self._pull()

    def flush(self) -> Int16:
        """The rest. Nothing is pushed after it."""
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> Int16:
        parts: list[Int16] = []
        while True:
            try:
                frame = cast(av.AudioFrame, self._graph.pull())
            except (av.BlockingIOError, av.EOFError):
                break
            parts.append(cast(Int16, frame.to_ndarray().ravel()))
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def _passes(speed: float) -> list[float]:
    """Factors within one pass' reach that make `speed` together."""
    reach = math.log(_MOST if speed > 1 else _LEAST)
    count = max(1, math.ceil(math.log(speed) / reach - 1e-9))
    return [speed ** (1 / count)] * count
