"""Spark-TTS: Qwen2.5 that says BiCodec's tokens; a sentence at a time, no streaming within it.

Calls are those of github.com/SparkAudio/Spark-TTS (cli/SparkTTS.py). Voices are female and male, or REFERENCE_AUDIO.
Not run with real weights by Parley's tests.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing, reference_file
from gateway.triton.models.voices import Voice


class Spark:
    imitates = True

    def __init__(self, folder: Folder) -> None:
        try:
            import torch
            from cli.SparkTTS import SparkTTS
        except ImportError as error:
            raise missing(folder, "Spark-TTS", error) from None
        device = folder.parameter("device", "cuda:0" if torch.cuda.is_available() else "cpu")
        self._model: Any = SparkTTS(folder.path("checkpoint"), torch.device(device))
        self.rate = int(self._model.sample_rate)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        if reference is None:
            made = self._model.inference(text, gender=voice.engine_name, pitch="moderate", speed="moderate")
        else:
            with reference_file(reference) as path:
                made = self._model.inference(text, prompt_speech_path=path)
        yield np.asarray(made, np.float32).reshape(-1)


def load(folder: Folder) -> Spark:
    """Raises: RuntimeError."""
    return Spark(folder)
