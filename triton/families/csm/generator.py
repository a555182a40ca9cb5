"""Sesame CSM: a backbone says the first code of each frame, a small decoder the others, Mimi makes the sound.

transformers' CsmForConditionalGeneration, frame by frame instead of by its `generate`, which can be neither
listened to before its end nor stopped. Greedy, the codes are the same; so is the sound, made in steps.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import Samples, missing
from gateway.triton.models.voices import Voice

MOST_S_MORE = 2.0
REFERENCE_RATE = 16_000
FIRST_FRAMES, LATER_FRAMES = 1, 4


class Csm:
    """`Generator` of a CSM checkpoint in `checkpoint/`."""

    imitates = True

    def __init__(self, folder: Folder) -> None:
        """Raises: RuntimeError where torch or transformers is missing."""
        try:
            import torch
            from mimi_step import MimiStep
            from transformers import CsmForConditionalGeneration
        except ImportError as error:
            raise missing(folder, "torch and transformers", error) from None
        torch.set_num_threads(int(folder.parameter("threads", "1")))
        self._torch = torch
        place = folder.path("checkpoint")
        self._device = folder.parameter("device", "cuda" if torch.cuda.is_available() else "cpu")
        model = CsmForConditionalGeneration.from_pretrained(place, dtype=torch.float32)
        self._model = model.eval().to(self._device)
        self._codec = MimiStep(model.codec_model, model.config.num_codebooks).eval().to(self._device)
        front = folder.front
        self._sampling = front["sampling"]
        self._most_s_a_sign = float(front["most_s_a_sign"])
        seed = folder.parameter("seed")
        self._seed = int(seed) if seed not in ("", "None") else None
        self._tokenizer = _tokenizer(place, model.config, plain=front["tokens"] == "bytes")
        self.rate = int(model.codec_model.config.sampling_rate)

    def speak(self, text: str, voice: Voice, reference: Samples | None) -> Generator[Samples, None, None]:
        """reference: somebody's speech at 16 kHz, heard by the model before it speaks."""
        torch = self._torch
        draw = torch.Generator(device=self._device)
        draw.manual_seed(self._seed) if self._seed is not None else draw.seed()
        decoding = _Decoding(torch, self._codec, self._device)
        waiting: list[Any] = []
        wanted = FIRST_FRAMES
        for frame in self.frames(text, voice.engine_name, reference, draw):
            waiting.append(frame)
            if len(waiting) >= wanted:
                yield decoding(waiting)
                waiting, wanted = [], LATER_FRAMES
        if waiting:
            yield decoding(waiting)

    def frames(self, text: str, speaker: str, reference: Samples | None, draw: Any) -> Iterator[Any]:
        """Codes [K] of one frame after the other, up to the end that the model says or the text's longest."""
        from transformers import DynamicCache

        config = self._model.config
        cache = DynamicCache(config=config)
        inputs = self._prompt(text, speaker, reference)
        for _ in range(self._most_frames(text)):
            codes = self._frame(inputs, cache, draw)
            if bool((codes[:, :-1] == config.codebook_eos_token_id).all()):
                return
            yield codes[0]
            inputs = {"input_ids": codes[:, None]}

    def _frame(self, inputs: dict[str, Any], cache: Any, draw: Any) -> Any:
        """[1, K]"""
        with self._torch.inference_mode():
            made = self._model(**inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)
            first = self._pick(made.logits[:, -1], "temperature", draw)
            # The last of the hidden states is the normed one, which the depth decoder was taught with.
            return self._depth(first, made.hidden_states[-1][:, -1], draw)

    def _depth(self, first: Any, hidden: Any, draw: Any) -> Any:
        """[1, K]: the frame that begins with `first` [1]."""
        torch, decoder = self._torch, self._model.depth_decoder
        from transformers import DynamicCache

        cache = DynamicCache(config=decoder.config)
        codes = [first]
        inputs = {
            "input_ids": torch.stack([torch.zeros_like(first), first], 1),
            "backbone_last_hidden_state": hidden,
        }
        for _ in range(self._model.config.num_codebooks - 1):
            made = decoder(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            codes.append(self._pick(made.logits[:, -1], "depth_temperature", draw))
            inputs = {"input_ids": codes[-1][:, None]}
        return torch.stack(codes, 1)

    def _pick(self, logits: Any, temperature: str, draw: Any) -> Any:
        torch = self._torch
        logits = logits.float()
        # Codes above the codec's own are marks for training.
        logits[:, self._model.codec_model.config.codebook_size :] = -math.inf
        heat = float(self._sampling[temperature])
        if heat <= 0:
            return logits.argmax(-1)
        best, places = logits.topk(min(int(self._sampling["top_k"]), logits.shape[-1]))
        chosen = torch.multinomial(torch.softmax(best / heat, -1), 1, generator=draw)
        return places.gather(-1, chosen)[:, 0]

    def _prompt(self, text: str, speaker: str, reference: Samples | None) -> dict[str, Any]:
        torch, config = self._torch, self._model.config
        ids = self._tokenizer(f"[{speaker}]{text}")
        if reference is None:
            return {"input_ids": torch.tensor([ids], device=self._device)}
        audio = torch.from_numpy(_resampled(reference, REFERENCE_RATE, self.rate))[None, None].to(
            self._device
        )
        count = int(self._model.codec_model.get_encoded_length(torch.tensor(audio.shape[-1])))
        heard = [config.audio_token_id] * count + [config.audio_eos_token_id]
        return {
            "input_ids": torch.tensor(
                [[*self._tokenizer(f"[{speaker}]"), *heard, *ids]], device=self._device
            ),
            "input_values": audio,
            "input_values_cutoffs": torch.tensor([[audio.shape[-1]]], device=self._device),
        }

    def _most_frames(self, text: str) -> int:
        frame_s = self._codec.samples / self.rate
        return math.ceil((MOST_S_MORE + self._most_s_a_sign * len(text)) / frame_s)


class _Decoding:
    """Mimi in steps, for one utterance."""

    def __init__(self, torch: Any, codec: Any, device: str) -> None:
        self._torch, self._codec, self._device = torch, codec, device
        self._states = [torch.zeros(1, *state.dims, device=device) for state in codec.states]
        self._start = 1.0

    def __call__(self, frames: list[Any]) -> Samples:
        torch = self._torch
        with torch.inference_mode():
            start = torch.full((1, 1), self._start, device=self._device)
            audio, *self._states = self._codec(torch.stack(frames, 1)[None], start, *self._states)
        self._start = 0.0
        samples: Samples = audio[0].float().cpu().numpy()
        return samples


def load(folder: Folder) -> Csm:
    """Raises: RuntimeError."""
    return Csm(folder)


def _tokenizer(place: Any, config: Any, *, plain: bool) -> Any:
    """text -> ids, with the marks around them. plain: bytes, for models with random weights."""
    if plain:
        # Above the bytes lie the marks.
        return lambda text: [config.bos_token_id, *text.encode()]
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(place)
    return lambda text: found(f"{text}<|end_of_text|>", add_special_tokens=True).input_ids


def _resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Linear between samples: a reference is listened to, not played."""
    at = np.arange(len(samples) * wanted // rate) * (rate / wanted)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)
