"""Fewer frames to wait for: how few frames after one a vocoder may see before it is heard.

A receptive field says what can matter. Most of what lies at its end hardly does, and a voice whose frames come one by
one is silent until they are there. How little it matters depends on the weights, so it is measured, on frames of
the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gateway.triton.models.tts.windows import Windowing, Windows

Frames = NDArray[np.float32]


def shortened(
    vocoder: Any, windows: Mapping[str, int], spoken: Sequence[Frames], bound: float
) -> tuple[dict[str, int], float]:
    """The fewest frames after one with which no piece of audio differs by more than `bound`, and by how much it does:
    dB below the audio.

    vocoder: frames [1, bins, T] -> [1, T * hop]; spoken: [bins, T] each, T larger than a window.
    """

    def run(frames: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            made: NDArray[np.float32] = vocoder(torch.from_numpy(frames)[None])[0].numpy()
        return made

    wholes = [run(frames) for frames in spoken]

    def difference(right: int) -> float:
        windowing = Windowing.of({**windows, "right": right})
        return max(
            worst_db(np.concatenate(list(Windows(run, windowing).stream(frames))), whole, windowing.hop)
            for frames, whole in zip(spoken, wholes, strict=True)
        )

    few, enough = -1, windows["right"]
    found = difference(enough)
    while enough - few > 1:  # more frames never say less
        middle = (few + enough) // 2
        measured = difference(middle)
        if measured <= bound:
            enough, found = middle, measured
        else:
            few = middle
    return {**windows, "right": enough}, found


def worst_db(made: Frames, whole: Frames, size: int) -> float:
    """The difference where it is loudest, in a piece of so many samples, below the level of the whole."""
    pieces = (made.astype(np.float64) - whole)[: len(whole) // size * size].reshape(-1, size)
    loudest = float(np.sqrt(np.mean(np.square(pieces), axis=1)).max())
    level = float(np.sqrt(np.mean(np.square(whole.astype(np.float64)))))
    return 20 * math.log10((loudest + 1e-12) / level)
