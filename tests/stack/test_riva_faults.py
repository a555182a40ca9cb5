"""The speech service while its Triton, or a model's process, is killed under it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.riva.server import SpeechServer
from gateway.settings import ModelsSettings, TritonSettings
from tests.support.stack import Stack, shared_stack

pytestmark = pytest.mark.stack
triton_stack = shared_stack("asr_pocketsphinx", "tts_espeak", scope="module")
RATE = 16_000
TOLD_S = 6.0
"""A client is told within this: the deadline of one chunk, and a little."""
BACK_S = 5.0
TOLD = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass
class Service:
    stack: Stack
    asr: Any
    tts: Any
    speech: bytes = b""
    """PCM16 of one sentence."""

    def kill(self, model: str = "") -> None:
        """The process of a model, or the server."""
        triton = self.stack.triton
        os.kill(triton.stub_pids()[model][0] if model else triton.pid, signal.SIGKILL)

    async def say(self, text: str = "one two three four five") -> bytes:
        reply = await self.tts.Synthesize(synthesis(text), timeout=20)
        return bytes(reply.audio)

    async def hear(self) -> str:
        """The finals of the sentence, sent as fast as they are recognised."""

        async def requests() -> AsyncIterator[Any]:
            yield first_message()
            for i in range(0, len(self.speech), 3_200):
                yield rasr.StreamingRecognizeRequest(audio_content=self.speech[i : i + 3_200])

        call = self.asr.StreamingRecognize(requests(), timeout=20)
        return " ".join([r.alternatives[0].transcript async for x in call for r in x.results if r.is_final])

    async def works_again(self, what: str) -> None:
        """Within five seconds, by asking until it does."""
        async with asyncio.timeout(BACK_S):
            while True:
                failure: grpc.aio.AioRpcError | None = None
                try:
                    assert await (self.hear() if what == "asr" else self.say())
                except grpc.aio.AioRpcError as error:
                    failure = error
                if failure is None:
                    return
                assert failure.code() in TOLD, failure.details()
                assert failure.details()


def synthesis(text: str) -> Any:
    return rtts.SynthesizeSpeechRequest(text=text, language_code="en-US", sample_rate_hz=RATE)


def first_message() -> Any:
    config = rasr.RecognitionConfig(encoding=1, sample_rate_hertz=RATE, language_code="en-US")
    config.custom_configuration["parley.endpointing"] = "off"
    return rasr.StreamingRecognizeRequest(
        streaming_config=rasr.StreamingRecognitionConfig(config=config, interim_results=True)
    )


@pytest.fixture
async def service(triton_stack: Stack) -> AsyncIterator[Service]:
    models = ModelsSettings(tts="tts_espeak")  # the one whose process is killed
    server = SpeechServer(TritonSettings(uri=triton_stack.triton.grpc), models, "127.0.0.1:0")
    channel = grpc.aio.insecure_channel(await server.start())
    running = Service(
        triton_stack,
        riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel),
        riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel),
    )
    try:
        running.speech = await running.say() + bytes(RATE)
        yield running
        await running.works_again("asr")
        await running.works_again("tts")
    finally:
        await channel.close()
        await server.stop(0)


async def test_utterance_survives_or_is_told_when_the_recognisers_process_is_killed(service: Service) -> None:
    call = await half_an_utterance(service)
    other = asyncio.create_task(service.say())
    service.kill("asr_pocketsphinx")
    await told_or_final(service, call)
    assert await other, "the voice is untouched"


async def test_utterance_is_told_when_triton_is_killed(service: Service) -> None:
    call = await half_an_utterance(service)
    service.kill()
    await told_or_final(service, call)


@pytest.mark.parametrize("victim", ["tts_espeak", ""], ids=["model", "server"])
async def test_synthesis_is_told_when_its_process_is_killed(service: Service, victim: str) -> None:
    call = service.tts.SynthesizeOnline(iter([synthesis("count with me to one hundred " * 40)]))
    assert (await call.read()).audio
    service.kill(victim)
    async with asyncio.timeout(TOLD_S):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(call)
    assert caught.value.code() in TOLD
    assert "Traceback" not in str(caught.value.details())


async def half_an_utterance(service: Service) -> Any:
    call = service.asr.StreamingRecognize(timeout=30)
    await call.write(first_message())
    await call.write(rasr.StreamingRecognizeRequest(audio_content=service.speech[: len(service.speech) // 2]))
    assert await call.read() is not grpc.aio.EOF
    return call


async def read_all(call: Any) -> list[Any]:
    responses = []
    while (response := await call.read()) is not grpc.aio.EOF:
        responses.append(response)
    return responses


async def told_or_final(service: Service, call: Any) -> None:
    """The rest of the audio leads to a final of all of it, or to a status that says what happened."""
    async with asyncio.timeout(TOLD_S * 2):
        try:
            await call.write(
                rasr.StreamingRecognizeRequest(audio_content=service.speech[len(service.speech) // 2 :])
            )
            await call.done_writing()
            last = (await read_all(call))[-1]
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            assert await call.code() in TOLD
            assert await call.details()
            return
    assert last.results[0].is_final
    assert last.results[0].alternatives[0].transcript.strip()
    assert last.results[0].audio_processed == pytest.approx(len(service.speech) / 2 / RATE, abs=0.01)


async def test_a_thousand_milliseconds_of_noise_do_not_disturb(service: Service) -> None:
    noise = (np.random.default_rng(1).standard_normal(RATE) * 3_000).astype("<i2").tobytes()
    config = rasr.RecognitionConfig(encoding=1, sample_rate_hertz=RATE, language_code="en-US")
    await service.asr.Recognize(rasr.RecognizeRequest(config=config, audio=noise), timeout=20)
    assert await service.hear()
