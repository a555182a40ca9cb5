"""How loud each voice is by itself, learned from what it has said in this process.

A voice's loudness differs little from sentence to sentence, so the gain it needs is learned once and then stays:
what never moves cannot pump.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_KEPT = 1_024
_MEMORY_S = 20.0
"""What was heard longer ago hardly counts."""
_LEAST_S = 0.8
"""Less speech says nothing about a voice."""
_CLOSE_LU = 0.5
_CLOSE_TO_MEASURED_LU = 1.0
"""A level that is as close as that stays as it is, so that the same text sounds the same; one that was measured by
itself is believed more than what a single utterance says."""


@dataclass(slots=True)
class VoiceLevel:
    """One voice of one model in one style."""

    lufs: float | None = None
    """Before any gain, less what the limiter takes away after it; None until it was heard."""
    weight_s: float = 0.0
    """How much speech that rests on, at most 20 s."""
    tried: bool = False
    """It was listened to once; see `calibration`."""
    _exact: float = 0.0
    _measured: bool = False

    def know(self, lufs: float, voiced_s: float) -> None:
        """It was measured."""
        self.lufs = self._exact = lufs
        self._measured = True
        self.weight_s = min(voiced_s, _MEMORY_S)

    def learn(self, lufs: float, voiced_s: float) -> None:
        """An utterance was over, or had been heard for so long."""
        if voiced_s < _LEAST_S:
            return
        together = self.weight_s + voiced_s
        self._exact = (self._exact * self.weight_s + lufs * voiced_s) / together
        self.weight_s = min(together, _MEMORY_S)
        close = _CLOSE_TO_MEASURED_LU if self._measured else _CLOSE_LU
        if self.lufs is None or abs(self.lufs - self._exact) > close:
            self.lufs = self._exact


class Levels:
    """Of all voices; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._levels: OrderedDict[tuple[str, str, str], VoiceLevel] = OrderedDict()

    def of(self, model: str, voice: str, style: str) -> VoiceLevel:
        key = (model, voice, style)
        level = self._levels.setdefault(key, VoiceLevel())
        self._levels.move_to_end(key)
        if len(self._levels) > _KEPT:
            self._levels.popitem(last=False)
        return level
