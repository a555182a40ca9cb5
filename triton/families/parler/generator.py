"""Parler-TTS: a decoder over DAC's codes that is told in words what to sound like; it streams.

Calls are those of github.com/huggingface/parler-tts. A voice's description is front.json's. Not run with real weights
by Parley's tests; transformers itself has no Parler, only its codec (DacModel).
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing
from gateway.triton.models.voices import Voice

STREAM_S = 0.5
SILENT_S = 60.0
END_S = 10.0


class Parler:
    imitates = False

    def __init__(self, folder: Folder) -> None:
        try:
            import torch
            from parler_tts import ParlerTTSForConditionalGeneration, ParlerTTSStreamer
            from transformers import AutoTokenizer, StoppingCriteria, StoppingCriteriaList
        except ImportError as error:
            raise missing(folder, "parler-tts", error) from None
        place = folder.path("checkpoint")
        self._device = folder.parameter("device", "cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = ParlerTTSForConditionalGeneration.from_pretrained(place).to(self._device).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(place)
        self._streamer = ParlerTTSStreamer

        class Stopped(StoppingCriteria):  # type: ignore[misc]
            def __init__(self, stop: threading.Event) -> None:
                self._stop = stop

            def __call__(self, ids: Any, scores: Any, **more: Any) -> Any:
                return torch.full((ids.shape[0],), self._stop.is_set(), device=ids.device, dtype=torch.bool)

        self._stopped = lambda stop: StoppingCriteriaList([Stopped(stop)])
        self._descriptions: dict[str, str] = folder.front["descriptions"]
        self.rate = int(self._model.config.sampling_rate)
        self._steps = int(self._model.audio_encoder.config.frame_rate * STREAM_S)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        described = self._ids(self._descriptions[voice.name])
        said = self._ids(text)
        streamer = self._streamer(self._model, device=self._device, play_steps=self._steps, timeout=SILENT_S)
        stop = threading.Event()
        asked = {
            "input_ids": described.input_ids, "attention_mask": described.attention_mask,
            "prompt_input_ids": said.input_ids, "prompt_attention_mask": said.attention_mask,
            "streamer": streamer, "stopping_criteria": self._stopped(stop), "do_sample": True,
        }  # fmt: skip
        work = threading.Thread(target=self._model.generate, kwargs=asked, name="parler", daemon=True)
        work.start()
        try:
            for chunk in streamer:
                if chunk.shape[0]:
                    yield chunk
        finally:
            stop.set()
            work.join(END_S)

    def _ids(self, text: str) -> Any:
        return self._tokenizer(text, return_tensors="pt").to(self._device)


def load(folder: Folder) -> Parler:
    """Raises: RuntimeError."""
    return Parler(folder)
