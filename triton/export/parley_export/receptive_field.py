"""How many frames around one decide its samples: measured on the module itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOST = 2048
"""Frames on one side. What sees farther is not windowed."""
LOOK = 512
"""Frames of the first look: enough for the vocoders there are, and for dilations of half of it."""


def receptive_field(
    run: Callable[[Any], Any], shape: tuple[int, ...], hop: int, most: int = MOST
) -> tuple[int, int]:
    """(left, right): the frames before one, and after it, that its samples depend on.

    run: frames [1, *shape, T] float32 -> [1, ..., T * hop]; the same at every place but for the ends.
    A frame of NaN makes NaN of all that depends on it, whatever the weights are, and of nothing else.

    Raises: ValueError where `run` is not windowable: it sees farther than `most` frames, or its output has
    another length.
    """
    frames = LOOK
    while frames <= max(LOOK, 4 * most):
        middle = frames // 2
        values = torch.zeros(1, *shape, frames)
        values[..., middle] = torch.nan
        with torch.no_grad():
            made = run(values)
        if made.shape[-1] != frames * hop:
            raise ValueError(f"{frames} frames became {made.shape[-1]} samples, not {frames} * {hop}")
        touched = torch.isnan(made.reshape(-1, frames, hop)).any(dim=2).any(dim=0).nonzero()[:, 0]
        first, last = int(touched.min()), int(touched.max())
        if first > 0 and last < frames - 1:
            return max(0, last - middle), max(0, middle - first)
        frames *= 2
    raise ValueError(f"what this makes of a frame depends on more than {most} frames around it: no windows")
