"""A voice whose LLM speaks the tokens of a codec: another server completes the prompt, we make sound of it.

Orpheus' way: /v1/completions of vLLM, NIM or any other OpenAI-compatible server gives `<custom_token_N>`, seven to a
frame of SNAC; its prompt, its sampling and the order of its tokens are in front.json. Where the LLM is, its
parameters say: llm (base URL with /v1), llm_model, llm_key_from (the environment variable with its key),
llm_first_token_s and llm_next_token_s (what a silent one is given). `decoders`: how many run the codec's graph at a
time; as many as there are cores, more where the server batches it (graphs_by: triton).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.codec_decoders import Codes, Decoder, Samples
from gateway.triton.models.tts.codec_tokens import CodecTokens, without_marks
from gateway.triton.models.tts.common import Heard, can_be_said, fixed_seed, read_voices, to_int16
from gateway.triton.models.tts.completions import Answer, Completions, LlmFailed
from gateway.triton.models.tts.places import LOOK_S, Audience, Gone, Place
from gateway.triton.models.tts.tempo import Tempo
from gateway.triton.models.turns import Turns
from gateway.triton.models.voices import Voice

MOST_S_A_SIGN, MOST_S_MORE = 0.25, 2.0
"""Speech of a text is no longer than this a character, and this: an LLM that babbles is stopped."""


class CodecVoice:
    """`Engine` of a codec behind an LLM."""

    rests = True
    piece_chars = 200

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError; ValueError for parameters that make no sense."""
        front = folder.front
        self._decoder = Decoder(folder)
        self._front = front
        self.rate = int(front["rate"])
        self._frame_s = int(front["samples"]) / self.rate
        self.voices = read_voices(front["voices"])
        self.threads = int(folder.parameter("max_streams", "64"))
        cores = len(os.sched_getaffinity(0))
        self._turns = Turns(int(folder.parameter("decoders", str(cores))))
        self._first_s = _seconds(folder, "llm_first_token_s", 10.0)
        self._next_s = _seconds(folder, "llm_next_token_s", 5.0)
        self._model = folder.parameter("llm_model")
        self._seed = fixed_seed(folder)
        key = os.environ.get(folder.parameter("llm_key_from", "PARLEY_TTS_LLM_KEY"), "")
        self._llm = Completions(folder.parameter("llm"), key)

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        """Raises: LlmFailed, GraphError."""
        said = without_marks(text)
        if not can_be_said(said):
            return
        tempo = Tempo(self.rate, speed)
        try:
            for samples in self._stream(said, voice, heard):
                if not heard(to_int16(tempo(samples))):
                    return
            heard(to_int16(tempo.flush()))
        except Gone:
            return

    def audio(self, codes: Codes, seed: int) -> Samples:
        """All of [rows, frames], as the graph makes it: no level set, nothing trimmed."""
        decoding = self._decoder.begin(seed)
        parts = [part for at in range(codes.shape[1]) for part in decoding.feed(codes[:, at : at + 1])]
        return np.concatenate([*parts, *decoding.end()])

    def close(self) -> None:
        self._llm.close()

    def _stream(self, text: str, voice: Voice, heard: Heard) -> Iterator[Samples]:
        tokens = CodecTokens(self._front["tokens"])
        decoding = self._decoder.begin(self._seed)
        limit = self._limit(text)
        audience = Audience(heard)
        place = Place(self._turns, audience, "the decoder")
        answer = self._llm.ask(self._body(text, voice, limit), limit + 2)
        try:
            while texts := self._take(answer, tokens, audience):
                yield from self._decoded(decoding.feed(tokens.read(texts)), place, audience)
        finally:
            answer.close()
        if not tokens.frames:
            raise LlmFailed(
                f"{self._llm.server} answered without a whole frame of {self._front['codec']} tokens: does "
                f'{self._model or "its model"} speak them ("{self._front["tokens"]["pattern"]}")?'
            )
        yield from self._decoded(decoding.end(), place, audience)

    def _decoded(self, parts: Iterator[Samples], place: Place, audience: Audience) -> Iterator[Samples]:
        """Each part is made in its turn: who has heard nothing yet goes before all others."""
        while True:
            with place:
                part = next(parts, None)
            if part is None:
                return
            audience.made_s += len(part) / self.rate
            yield part

    def _take(self, answer: Answer, tokens: CodecTokens, audience: Audience) -> list[str]:
        """The next pieces of text; empty at the end. Raises: LlmFailed, Gone."""
        patience = self._next_s if tokens.frames else self._first_s
        deadline = time.monotonic() + patience
        while True:
            try:
                return answer.take(max(0.001, min(LOOK_S, deadline - time.monotonic())))
            except TimeoutError:
                if not audience.wanted:
                    raise Gone from None
                if time.monotonic() >= deadline:
                    raise LlmFailed(
                        f"{self._llm.server} said nothing for {patience:g} s"
                        f"{'' if tokens.frames else ' after it was asked'}; it is too slow or stuck"
                    ) from None

    def _limit(self, text: str) -> int:
        """Tokens that speech of this text has at most."""
        most_s = MOST_S_MORE + MOST_S_A_SIGN * len(text)
        return math.ceil(most_s / self._frame_s) * len(self._front["tokens"]["order"])

    def _body(self, text: str, voice: Voice, limit: int) -> dict[str, Any]:
        llm = self._front["llm"]
        prompt = llm["prompt"].replace("{voice}", voice.engine_name).replace("{text}", text)
        body = {**llm["sampling"], "prompt": prompt, "max_tokens": limit, "stop": [llm["end"]]}
        # vLLM's own: without it the tokens that are the speech are left out of the text.
        body["skip_special_tokens"] = False
        if self._model:
            body["model"] = self._model
        if self._seed is not None:
            body["seed"] = self._seed
        return body


def load(folder: Folder) -> CodecVoice:
    """Raises: GraphError, ValueError."""
    return CodecVoice(folder)


def _seconds(folder: Folder, name: str, default: float) -> float:
    said = folder.parameter(name, str(default))
    try:
        value = float(said)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f'parameter {name} is "{said}"; it must be a number of seconds above 0')
    return value
