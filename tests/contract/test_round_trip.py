"""A recogniser hears what a voice says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.model_info import model_info
from tests.contract.client import Client, word_errors

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

SAID = (
    "please call me back tomorrow morning",
    "i would like to know what time it is",
    "can you tell me a story about the sea",
)


def at_16k(pcm: np.ndarray[Any, Any], rate: int) -> np.ndarray[Any, Any]:
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1).astype(np.float32), format="flt", layout="mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    resampler = av.AudioResampler("flt", "mono", 16_000)
    return np.concatenate([f.to_ndarray()[0] for part in (frame, None) for f in resampler.resample(part)])


async def test_words_arrive(client: Client, asr_config: ModelConfig, tts_config: ModelConfig) -> None:
    """A weak recogniser and a robotic voice: half of the words are proof enough that it is speech."""
    wrong = words = 0
    pause = np.zeros(8_000, np.float32)
    for text in SAID:
        async with client.speak(tts_config, text, LANGUAGE="en-US") as speech:
            pcm = np.concatenate([part.audio async for part in speech])
        heard = at_16k(pcm, model_info(tts_config).sample_rate)
        final = (await client.recognize(asr_config, np.concatenate([pause, heard, pause])))[-1]
        words += len(text.split())
        wrong += min(len(text.split()), word_errors(text, final.text.lower()))
    assert wrong <= words / 2, f"{wrong} of {words} words wrong"
