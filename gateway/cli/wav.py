"""Audio files of the command line: read any common one, write WAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from gateway.audio.pcm import Int16
from gateway.audio.resample import resample
from gateway.cli.common import USAGE, Fault


def read_speech(path: Path, rate: int) -> Int16:
    """The file as mono int16 [n] at `rate` Hz. Raises Fault for what cannot be read."""
    if not path.exists():
        raise Fault(f"there is no file {path}", USAGE)
    try:
        samples, found = soundfile.read(path, dtype="int16", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise Fault(
            f"{path} is no audio file that can be read ({reason}); use WAV, FLAC or Ogg", USAGE
        ) from None
    if not len(samples):
        raise Fault(f"{path} holds no audio", USAGE)
    mono: Int16 = samples.mean(axis=1).astype(np.int16) if samples.shape[1] > 1 else samples[:, 0]
    try:
        return resample(np.ascontiguousarray(mono), found, rate)
    except ValueError as error:
        raise Fault(f"{path}: {error}", USAGE) from None


def write_wav(path: Path, samples: Int16, rate: int) -> None:
    """PCM16; `samples` [n] mono or [n, channels]. Raises Fault when it cannot be written."""
    try:
        soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")
    except (soundfile.SoundFileError, OSError) as error:
        raise Fault(f"cannot write {path}: {error}") from None
