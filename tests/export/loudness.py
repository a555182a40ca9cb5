"""How far apart two pieces of audio are, as a listener would count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def apart_db(one: Samples, other: Samples) -> float:
    """The level of their difference, below the level of `other`."""
    difference = np.sqrt(np.mean(np.square((one - other).astype(np.float64))))
    level = np.sqrt(np.mean(np.square(other.astype(np.float64))))
    return float(20 * np.log10((difference + 1e-12) / level))


def clicks(parts: Sequence[Samples], whole: Samples) -> float:
    """The largest jump from a part to the next that is not in the whole."""
    made = np.concatenate(parts)
    seams = np.cumsum([len(part) for part in parts])[:-1]
    jumps, wanted = np.diff(made)[seams - 1], np.diff(whole)[seams - 1]
    return float(np.abs(jumps - wanted).max())
