"""flite under the contract of a Parley voice."""

from __future__ import annotations

import sys
from typing import Any

sys.dont_write_bytecode = True  # a new file in the version folder would make Triton load the model again

try:
    from gateway.triton.models.speech import SpeechModel
except ImportError as error:
    raise ImportError(
        "tts_flite needs Parley in the Python environment of Triton's Python backend: pip install parley"
    ) from error
from flite import Flite  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._speech = SpeechModel(args, Flite)

    def execute(self, requests: list[Any]) -> None:
        self._speech.execute(requests)

    def finalize(self) -> None:
        self._speech.finalize()
