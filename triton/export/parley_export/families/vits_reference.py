"""What VitsModel itself says, as a whole, to the noise that a front would draw from the same seed."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from parley_export.checkpoint import ExportError

MARGIN = 1e-3
"""How far all durations of a reference are from a whole number of frames: rounded up, a hair's breadth is a frame."""
TRIES = 200
MEASURED = 16
"""Voices whose level is measured; further ones take the mean."""
LEVEL = 0.1
"""-20 dBFS: what gains bring a voice to."""


def said(
    model: Any, ids: NDArray[np.int64], seed: int, speaker: int = 0, rate: float | None = None
) -> NDArray[np.float32]:
    """ids [n] -> samples: VitsModel.forward with its noise from np.random.default_rng(seed), in its order."""
    rng = np.random.default_rng(seed)

    def randn(*size: int, **_: Any) -> Any:
        return torch.from_numpy(rng.standard_normal(size, np.float32))

    def randn_like(other: Any, **_: Any) -> Any:
        return randn(*other.shape)

    several = model.config.num_speakers > 1
    with (
        torch.no_grad(),
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "randn_like", randn_like),
    ):
        made = model(torch.from_numpy(ids[None]), speaker_id=speaker if several else None, speaking_rate=rate)
    audio: NDArray[np.float32] = made.waveform[0].numpy()
    return audio


def steady_seed(model: Any, ids: NDArray[np.int64], speaker: int = 0, rate: float | None = None) -> int:
    """The first seed whose durations are clear of a step. Raises: ExportError."""
    for seed in range(TRIES):
        exact = _durations(model, ids, seed, speaker, rate)
        if float((exact - exact.round()).abs().min()) > MARGIN:
            return seed
    raise ExportError(f"no seed below {TRIES} gives durations that are clear of a whole number of frames")


class _Enough(Exception):
    """Carries the durations out of a forward pass that need not go on."""


def _durations(model: Any, ids: NDArray[np.int64], seed: int, speaker: int, rate: float | None) -> Any:
    """Before they are rounded up."""

    def ceil(values: Any) -> Any:
        raise _Enough(values)

    with mock.patch.object(torch, "ceil", ceil):
        try:
            said(model, ids, seed, speaker, rate)
        except _Enough as enough:
            return enough.args[0]
    raise ExportError("this VitsModel rounds its durations in another way than transformers 5 does")


def measure(
    model: Any, ids: NDArray[np.int64], voices: list[dict[str, Any]]
) -> dict[str, NDArray[np.generic]]:
    """Puts each voice's gain into it, and gives what the first and the last voice say, as references."""
    gains: list[float] = []
    references: dict[str, NDArray[np.generic]] = {}
    for voice in voices[:MEASURED]:
        speaker = voice["speaker"]
        seed = steady_seed(model, ids, speaker)
        audio = said(model, ids, seed, speaker)
        gains.append(LEVEL / max(voiced_level(audio, model.config.sampling_rate), 1e-4))
        number = len(references) // 4
        if voice in (voices[0], voices[-1]):
            references |= {
                f"ids_{number}": ids, f"seed_{number}": np.array(seed), f"audio_{number}": audio,
                f"voice_{number}": np.array(voice["name"]),
            }  # fmt: skip
    gains += [float(np.mean(gains))] * (len(voices) - len(gains))
    for voice, gain in zip(voices, gains, strict=True):
        voice["gain"] = round(gain, 4)
    return references


def voiced_level(audio: NDArray[np.float32], rate: int) -> float:
    """RMS, full scale 1, of the 20 ms frames within 25 dB of the loud ones (95th percentile)."""
    size = rate // 50
    if len(audio) < size:
        return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))
    power = (audio[: len(audio) // size * size].reshape(-1, size).astype(np.float64) ** 2).mean(1)
    return float(np.sqrt(power[power >= np.percentile(power, 95) * 10**-2.5].mean()))
