"""Faster or slower speech at the same pitch, for voices whose model knows no speed: FFmpeg's atempo."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class Tempo:
    """Samples in, samples at another tempo out. `speed`: 0.5 to 2; at 1 nothing is done."""

    def __init__(self, rate: int, speed: float) -> None:
        """Raises: RuntimeError where PyAV is missing, and the speed is not 1."""
        self._rate = rate
        self._graph: Any = None
        if abs(speed - 1.0) > 1e-3:
            self._graph = _graph(rate, speed)

    def __call__(self, samples: Samples) -> Samples:
        """float32 [n], full scale 1; some of it may come later."""
        if self._graph is None or not len(samples):
            return samples
        import av

        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1).astype(np.float32), "flt", "mono")
        frame.sample_rate = self._rate
        self._graph.push(frame)
        return self._pulled()

    def flush(self) -> Samples:
        """What is left at the end."""
        if self._graph is None:
            return np.zeros(0, np.float32)
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> Samples:
        import av

        parts = [np.zeros(0, np.float32)]
        while True:
            try:
                parts.append(self._graph.pull().to_ndarray().reshape(-1))
            except (av.error.BlockingIOError, av.error.EOFError):
                return np.concatenate(parts)


def _graph(rate: int, speed: float) -> Any:
    try:
        import av
        import av.filter
    except ImportError:
        raise RuntimeError("another speed needs PyAV: pip install av") from None
    graph = av.filter.Graph()
    source = graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=Fraction(1, rate))
    tempo = graph.add("atempo", f"{speed:.3f}")
    sink = graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    return graph
