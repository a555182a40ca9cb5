"""A recogniser hears what a voice says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.audio.pcm import to_pcm
from gateway.listen.riva_asr import RivaRecognizer
from gateway.settings import AsrSettings, TtsSettings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.triton.model_info import model_info
from load.emulators import Addresses
from load.emulators.profile import AsrProfile
from tests.contract.client import Client, word_errors

pytestmark = pytest.mark.asyncio(loop_scope="session")

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


async def test_the_emulated_recogniser_takes_the_emulated_voice_for_speech(emulated: Addresses) -> None:
    recognizer = RivaRecognizer(AsrSettings(uri=emulated.asr))
    synthesizer = TritonSynthesizer(TtsSettings(uri=emulated.triton))

    async def voice() -> AsyncIterator[bytes]:
        chunks = [chunk async for chunk in synthesizer.synthesize(SAID[0])]
        pcm = np.concatenate([np.frombuffer(chunk.pcm, "<i2") for chunk in chunks])
        yield to_pcm(at_16k(pcm / 32_768, chunks[0].rate))

    try:
        heard = [hypothesis async for hypothesis in recognizer.recognize(voice(), language="en-US")]
        assert heard[-1].text in AsrProfile().transcripts
        assert len(heard) >= 2
    finally:
        await recognizer.close()
        await synthesizer.close()
