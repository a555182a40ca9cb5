"""XTTS-v2 (coqui-tts): a GPT and HiFi-GAN that stream; imitates a voice from seconds of speech.

Names and calls are those of coqui-tts 0.27 (TTS/tts/models/xtts.py). Not run with real weights by Parley's tests.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing, reference_file
from gateway.triton.models.voices import Voice


class Xtts:
    imitates = True

    def __init__(self, folder: Folder) -> None:
        try:
            import torch
            from TTS.tts.configs.xtts_config import XttsConfig
            from TTS.tts.models.xtts import Xtts as Model
        except ImportError as error:
            raise missing(folder, "coqui-tts", error) from None
        place = folder.path("checkpoint")
        config = XttsConfig()
        config.load_json(str(place / "config.json"))
        self._model: Any = Model.init_from_config(config)
        self._model.load_checkpoint(config, checkpoint_dir=str(place), eval=True)
        self._model.to(folder.parameter("device", "cuda" if torch.cuda.is_available() else "cpu"))
        self.rate = int(config.model_args.output_sample_rate)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        if reference is None:
            speaker = self._model.speaker_manager.speakers[voice.engine_name]
            latents, embedding = speaker["gpt_cond_latent"], speaker["speaker_embedding"]
        else:
            with reference_file(reference) as path:
                latents, embedding = self._model.get_conditioning_latents(audio_path=[path])
        language = voice.language.split("-")[0].lower()
        for chunk in self._model.inference_stream(text, language, latents, embedding):
            yield chunk.float().cpu().numpy()


def load(folder: Folder) -> Xtts:
    """Raises: RuntimeError."""
    return Xtts(folder)
