"""Voices whose models are programs of their own: one front for every family in triton/families/.

Such a model is no graph; its library runs in this process, in an environment of its own (EXECUTION_ENV_PATH).
The family's code lies in the version folder as generator.py and has `load(folder) -> Generator`; everything
that a voice under Parley's contract is more than that is here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import threading
import wave
from collections.abc import Callable, Iterator
from collections.abc import Generator as Stream
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.common import Heard, Samples, can_be_said, read_voices, to_int16
from gateway.triton.models.tts.tempo import Tempo
from gateway.triton.models.voices import Voice

REFERENCE_RATE = 16_000
ACCEPT = "accept_license"
NON_COMMERCIAL = ("NC", "NONCOMMERCIAL", "NON-COMMERCIAL", "CPML")
SLICE_MS = 200
"""A chunk of a model's is handed on in slices of this much, so that it can be stopped within it."""


class Generator(Protocol):
    """A family's model, loaded. One call at a time."""

    rate: int
    """Hz."""
    imitates: bool
    """Whether `reference` is used."""

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Stream[Samples, None, None]:
        """Chunks as they are made. Closed, it stops what it does and frees what it holds.

        reference: speech to imitate, at 16 kHz, or None.
        """
        ...


class GeneratedVoice:
    """`Engine` around a generator."""

    threads = 1
    rests = False

    def __init__(self, folder: Folder) -> None:
        """Raises: RuntimeError, with the one thing to do."""
        check_license(folder)
        front = folder.front
        self.piece_chars = int(front.get("piece_chars", 200))
        self.voices = read_voices(front["voices"])
        self._generator = _load(folder)
        self.rate = self._generator.rate
        self.imitates = bool(self._generator.imitates)
        self._only_one = threading.Lock()

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        self.imitate(text, voice, speed, heard, None)

    def imitate(self, text: str, voice: Voice, speed: float, heard: Heard, reference: Samples | None) -> None:
        """As `synthesize`, with somebody's speech at 16 kHz to sound like."""
        if not can_be_said(text):
            return
        with self._only_one:
            stream = self._generator.speak(text, voice, reference)
            try:
                _pass_on(stream, Tempo(self.rate, speed), self.rate * SLICE_MS // 1000, heard)
            finally:
                stream.close()


def load(folder: Folder) -> GeneratedVoice:
    """Raises: RuntimeError, GraphError."""
    return GeneratedVoice(folder)


def check_license(folder: Folder, say: Callable[[str], object] | None = None) -> None:
    """Says a non-commercial licence in the log; refuses where nobody has said that it was read.

    Raises: RuntimeError.
    """
    name, told = folder.version.parent.name, folder.parameter("license")
    if not is_non_commercial(told):
        return
    text = f"{name}: its weights are licensed for non-commercial use alone ({told})"
    (say or _warn)(text)
    if folder.parameter(ACCEPT).lower() != "true":
        raise RuntimeError(
            f"{text}; read LICENSE in its folder, and if your use is covered set the parameter {ACCEPT} to "
            '"true" in its config.pbtxt'
        )


def is_non_commercial(license: str) -> bool:
    """license: an SPDX expression, or a licence's usual name."""
    words = license.upper().replace("_", "-").split("-")
    return any(word in words for word in NON_COMMERCIAL) or "NON-COMMERCIAL" in license.upper()


def missing(folder: Folder, library: str, error: Exception) -> RuntimeError:
    """What a family raises whose library is not there."""
    return RuntimeError(
        f"{folder.version.parent.name} needs {library}, in an environment of its own: "
        f"scripts/families {folder.version.parent} ({error})"
    )


@contextmanager
def reference_file(reference: Samples) -> Iterator[str]:
    """A WAV file of it, for libraries that read files; gone when the block ends."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(REFERENCE_RATE)
            out.writeframes(to_int16(reference).tobytes())
        file.flush()
        yield file.name


def _load(folder: Folder) -> Generator:
    """generator.py of the version folder; what lies beside it can be imported by it."""
    place = str(folder.version)
    if place not in sys.path:
        sys.path.insert(0, place)
    spec = importlib.util.spec_from_file_location("generator", folder.path("generator.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Generator = module.load(folder)
    return made


def _pass_on(stream: Stream[Samples, None, None], tempo: Tempo, size: int, heard: Heard) -> None:
    for chunk in stream:
        samples = tempo(np.ascontiguousarray(chunk, np.float32).reshape(-1))
        for at in range(0, len(samples), size):
            if not heard(to_int16(samples[at : at + size])):
                return
        if not len(samples) and not heard(to_int16(samples)):
            return
    heard(to_int16(tempo.flush()))


def _warn(text: str) -> None:
    import triton_python_backend_utils as pb  # there only inside Triton

    pb.Logger.log_warn(f"{text} [process {os.getpid()}]")
