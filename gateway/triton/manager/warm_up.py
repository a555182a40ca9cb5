"""The first request to a model that was just loaded: it must answer before anybody is sent to it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc.aio
import numpy as np

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import text
from gateway.triton.errors import TritonError, TritonTimeout
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.model_info import ModelInfo, family_of
from gateway.triton.stream import Drains

_WORDS = "Yes."
_SAMPLES = 2_560
"""One chunk of audio, at 16 kHz."""
_DRAIN_S = 2.0


class WarmUp:
    """One short synthesis read to its end, one short utterance; other models have to be ready, and no more.

    channel: keeps to its owner.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = GRPCInferenceServiceStub(channel)

    async def __call__(self, info: ModelInfo, version: str, deadline_s: float) -> None:
        """version: "" takes the newest. Raises: TritonTimeout, TritonError."""
        what = {"tts": self._speak, "asr": self._listen}.get(family_of(info))
        if what is None:
            return
        drains = Drains(deadline_s=_DRAIN_S)
        try:
            async with asyncio.timeout(deadline_s):
                await what(info, version, deadline_s, drains)
        except TimeoutError:
            raise TritonTimeout(f"{info.name}: its warm-up was not over within {deadline_s:.0f} s") from None
        finally:
            await drains.close()

    async def _speak(self, info: ModelInfo, version: str, deadline_s: float, drains: Drains) -> None:
        inputs = {"TEXT": text(_WORDS)}
        if info.voices and "VOICE" in info.inputs:
            inputs["VOICE"] = text(info.voices[0])
        if info.languages and "LANGUAGE" in info.inputs:
            spoken = info.voice_languages or info.languages
            inputs["LANGUAGE"] = text(spoken[0])
        answers = stream_decoupled(
            self._stub, info.name, inputs, version=version, drains=drains,
            first_deadline_s=deadline_s, next_deadline_s=deadline_s,
        )  # fmt: skip
        samples = 0
        async with aclosing(answers):
            async for answer in answers:
                samples += answer["AUDIO"].size if "AUDIO" in answer else 0
        if not samples:
            raise TritonError(f"{info.name}: it made no audio in its warm-up")

    async def _listen(self, info: ModelInfo, version: str, deadline_s: float, drains: Drains) -> None:
        call = SequenceCall(
            self._stub, info.name, version=version, drains=drains,
            decoupled=info.decoupled, batched=info.max_batch_size > 0,
        )  # fmt: skip
        silence = np.zeros(_SAMPLES, np.float32)
        language = info.languages[0] if info.languages else ""
        try:
            answer = await call.infer(silence, start=True, end=True, language=language, deadline_s=deadline_s)
        finally:
            call.give_up()
        if "TRANSCRIPT" not in answer:
            raise TritonError(f"{info.name}: it gave no transcript in its warm-up")
