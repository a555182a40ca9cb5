"""CosyVoice2: an LLM's speech tokens, flow matching and HiFT, streamed by its own code.

Calls are those of github.com/FunAudioLLM/CosyVoice (cosyvoice/cli/cosyvoice.py). Its voices are recordings: those
in spk2info.pt by name, or REFERENCE_AUDIO. Not run with real weights by Parley's tests.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing
from gateway.triton.models.voices import Voice


class CosyVoice:
    imitates = True

    def __init__(self, folder: Folder) -> None:
        try:
            import torch
            from cosyvoice.cli.cosyvoice import CosyVoice2
        except ImportError as error:
            raise missing(folder, "CosyVoice", error) from None
        self._torch = torch
        self._model: Any = CosyVoice2(
            str(folder.path("checkpoint")), load_jit=False, load_trt=False, fp16=False
        )
        self.rate = int(self._model.sample_rate)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        if reference is None:
            made = self._model.inference_sft(text, voice.engine_name, stream=True)
        else:
            prompt = self._torch.from_numpy(reference)[None]
            made = self._model.inference_cross_lingual(text, prompt, stream=True)
        for chunk in made:
            yield chunk["tts_speech"].reshape(-1).float().cpu().numpy()


def load(folder: Folder) -> CosyVoice:
    """Raises: RuntimeError."""
    return CosyVoice(folder)
