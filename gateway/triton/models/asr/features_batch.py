"""Audio of unequal lengths becomes one batch of log-mel features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.engine import Samples
from gateway.triton.models.features import LogMel


class Batch(NamedTuple):
    features: NDArray[np.float32]
    """[B, T, mels], zeros behind each row's own frames."""
    lengths: NDArray[np.int64]
    """Frames of each row, [B]."""
    rows: list[int]
    """Which audio each row is of."""


class FeatureBatch:
    """Raises: ValueError on settings that are unknown."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._mel = LogMel(settings)

    def batch(self, audios: Sequence[Samples]) -> Batch | None:
        """All that are long enough for a frame; None when none is."""
        made = [(row, self._mel.whole(audio)) for row, audio in enumerate(audios)]
        made = [(row, features) for row, features in made if len(features)]
        if not made:
            return None
        lengths = np.array([len(features) for _, features in made], np.int64)
        padded = np.zeros((len(made), int(lengths.max()), self._mel.settings.mels), np.float32)
        for at, (_, features) in enumerate(made):
            padded[at, : len(features)] = features
        return Batch(padded, lengths, [row for row, _ in made])
