"""MeloTTS: a VITS with BERT beside it; a sentence at a time, no streaming within it.

Calls are those of github.com/myshell-ai/MeloTTS (melo/api.py). Not run with real weights by Parley's tests.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing
from gateway.triton.models.voices import Voice


class Melo:
    imitates = False

    def __init__(self, folder: Folder) -> None:
        try:
            import torch
            from melo.api import TTS
        except ImportError as error:
            raise missing(folder, "MeloTTS", error) from None
        device = folder.parameter("device", "cuda" if torch.cuda.is_available() else "cpu")
        place = folder.path("checkpoint")
        self._model: Any = TTS(
            language=folder.front["melo_language"],
            device=device,
            config_path=str(place / "config.json"),
            ckpt_path=str(place / "checkpoint.pth"),
        )
        self.rate = int(self._model.hps.data.sampling_rate)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        speaker = self._model.hps.data.spk2id[voice.engine_name]
        for sentence in self._model.split_sentences_into_pieces(text, self._model.language, quiet=True):
            yield self._model.tts_to_file(sentence, speaker, output_path=None, quiet=True)


def load(folder: Folder) -> Melo:
    """Raises: RuntimeError."""
    return Melo(folder)
