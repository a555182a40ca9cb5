"""The Triton synthesiser against a real gRPC server in this process that plays the models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from gateway.audio.pcm import to_pcm
from gateway.settings import TtsSettings
from gateway.speak import triton_tts as module
from gateway.speak.factory import make_synthesizer
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import Chunk, TtsError


def model(name: str, **parameters: str) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(name=name, backend="python")
    config.model_transaction_policy.decoupled = True
    for tensor in ("TEXT", "VOICE", "LANGUAGE", "CANCEL"):
        config.input.add(name=tensor)
    config.output.add(name="AUDIO")
    for key, value in ({"sample_rate": "16000"} | parameters).items():
        config.parameters[key].string_value = value
    return config


def inputs_of(request: service_pb2.ModelInferRequest) -> dict[str, str]:
    """STRING inputs by name; CANCEL as "1"."""
    found = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        found[tensor.name] = raw[4:].decode() if tensor.datatype == "BYTES" else "1"
    return found


def audio(
    request: service_pb2.ModelInferRequest, samples: int, final: bool
) -> service_pb2.ModelStreamInferResponse:
    response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
    if samples:
        response.outputs.add(name="AUDIO", datatype="FP32", shape=[samples])
        response.raw_output_contents.append(np.full(samples, 0.5, "<f4").tobytes())
    response.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=response)


Speak = Callable[["Triton", service_pb2.ModelInferRequest, Any], Coroutine[Any, Any, None]]


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, models: list[model_config_pb2.ModelConfig], speak: Speak) -> None:
        self.models = {m.name: m for m in models}
        self.speak = speak
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        self.indexed = 0
        self.speaking: dict[str, tuple[asyncio.Task[None], Any]] = {}
        """By request id: a CANCEL may come on another call."""

    async def RepositoryIndex(self, request: Any, context: Any) -> service_pb2.RepositoryIndexResponse:
        self.indexed += 1
        index = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(
            models=[index(name=name, version="1", state="READY") for name in self.models]
        )

    async def ModelConfig(self, request: Any, context: Any) -> service_pb2.ModelConfigResponse:
        if request.name not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelConfigResponse(config=self.models[request.name])

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> None:
        speaking: asyncio.Task[None] | None = None
        try:
            async for request in request_iterator:
                inputs = inputs_of(request)
                if "CANCEL" in inputs:
                    self.cancelled.set()
                    spoken, heard_by = self.speaking.pop(request.id, (None, context))
                    if spoken is not None:
                        spoken.cancel()
                    await context.write(audio(request, 0, True))
                    await heard_by.write(audio(request, 0, True))
                else:
                    self.asked.append((request.model_name, inputs))
                    self.called.set()
                    speaking = asyncio.create_task(self.speak(self, request, context))
                    self.speaking[request.id] = speaking, context
            if speaking is not None:
                await asyncio.wait([speaking])
        finally:
            self.ended.set()


async def three_chunks(triton: Triton, request: Any, context: Any) -> None:
    for k in range(3):
        await context.write(audio(request, 160, k == 2))


async def no_audio(triton: Triton, request: Any, context: Any) -> None:
    await context.write(audio(request, 0, True))


async def one_and_hang(triton: Triton, request: Any, context: Any) -> None:
    await context.write(audio(request, 160, False))
    await asyncio.Event().wait()


async def hang(triton: Triton, request: Any, context: Any) -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def served(
    speak: Speak, *models: model_config_pb2.ModelConfig, **options: Any
) -> AsyncIterator[tuple[Triton, TritonSynthesizer]]:
    server = grpc.aio.server()
    triton = Triton(list(models) or [model("tts_a")], speak)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    synthesizer = TritonSynthesizer(TtsSettings(uri=f"127.0.0.1:{port}", **options))
    try:
        yield triton, synthesizer
    finally:
        await synthesizer.close()
        await server.stop(None)


async def spoken(synthesizer: TritonSynthesizer, text: str = "Hello.", **options: Any) -> list[Chunk]:
    return [chunk async for chunk in synthesizer.synthesize(text, **options)]


async def test_chunks_come_with_the_models_rate() -> None:
    async with served(three_chunks, model("tts_a", sample_rate="22050")) as (triton, synthesizer):
        chunks = await spoken(synthesizer, voice="", language="en-US")
        assert [(len(c.pcm), c.rate) for c in chunks] == [(320, 22_050)] * 3
        assert np.frombuffer(chunks[0].pcm, "<i2")[0] == 16_384
        assert triton.asked == [("tts_a", {"TEXT": "Hello.", "LANGUAGE": "en-US"})]


async def test_the_model_is_chosen_by_language_voice_and_default_tag() -> None:
    models = [
        model("tts_a", languages="en-GB,de-DE", voices="anna"),
        model("tts_b", languages="en-US", voices="slt,rms"),
        model("tts_c", languages="en-US", voices="x", default="true"),
        model("asr_z", languages="en-US"),
    ]
    async with served(three_chunks, *models) as (triton, synthesizer):
        looks = 0
        for voice, language, want in [
            ("", "en-US", "tts_c"),
            ("rms", "en-US", "tts_b"),
            ("", "de-AT", "tts_a"),
            ("anna", "en-US", "tts_a"),
        ]:
            await spoken(synthesizer, voice=voice, language=language)
            assert triton.asked[-1][0] == want
            looks = looks or triton.indexed
        assert triton.indexed == looks, "a sentence costs no look"
        with pytest.raises(TtsError, match=r"no voice nobody.*slt"):
            await spoken(synthesizer, voice="nobody", language="en-US")
        with pytest.raises(TtsError, match=r"speaks ja-JP.*de-DE"):
            await spoken(synthesizer, language="ja-JP")


async def test_the_usual_voice_yields_where_it_does_not_speak_the_language() -> None:
    models = [
        model("tts_a", languages="de-DE", voices="anna"),
        model("tts_b", languages="en-US", voices="slt,rms"),
    ]
    async with served(three_chunks, *models, voice="rms") as (triton, synthesizer):
        await spoken(synthesizer)
        await spoken(synthesizer, language="de-DE")
        assert [inputs.get("VOICE") for _, inputs in triton.asked] == ["rms", None]


async def test_a_named_model_is_used_and_must_be_ready() -> None:
    async with served(three_chunks, model("tts_a"), model("mine", family="tts"), model="mine") as (
        triton,
        synthesizer,
    ):
        await spoken(synthesizer)
        assert triton.asked[0][0] == "mine"
        await synthesizer.check()
        del triton.models["mine"]
        with pytest.raises(TtsError, match="no tts model mine"):
            await synthesizer.check()


async def test_tts_failure_gives_error_not_an_empty_audio() -> None:
    async with served(no_audio) as (_, synthesizer):
        with pytest.raises(TtsError, match="no audio"):
            await spoken(synthesizer)


@pytest.mark.parametrize("text", ["", "  ", "...", "—"])
async def test_nothing_to_say_is_no_error(text: str) -> None:
    async with served(no_audio) as (triton, synthesizer):
        assert await spoken(synthesizer, text) == []
        assert triton.asked == []


async def test_the_models_own_error_is_told() -> None:
    async def speak(triton: Triton, request: Any, context: Any) -> None:
        await context.write(service_pb2.ModelStreamInferResponse(error_message="voice table is broken"))

    async with served(speak) as (_, synthesizer):
        with pytest.raises(TtsError, match="voice table is broken"):
            await spoken(synthesizer)


@pytest.mark.parametrize(("speak", "heard"), [(hang, 0), (one_and_hang, 1)])
async def test_every_wait_for_a_chunk_has_a_deadline(speak: Speak, heard: int) -> None:
    async with served(speak, first_chunk_ms=150, chunk_ms=100) as (triton, synthesizer):
        stream = synthesizer.synthesize("Hello.")
        for _ in range(heard):
            await anext(stream)
        with pytest.raises(TtsError, match=r"within 0\.1"):
            await anext(stream)
        # A line on which nothing is heard any more is given up as a whole.
        await asyncio.wait_for((triton.ended if heard else triton.cancelled).wait(), 2)


async def test_closing_early_cancels_in_band_and_returns_at_once() -> None:
    async with served(one_and_hang) as (triton, synthesizer):
        loop = asyncio.get_running_loop()
        stream = synthesizer.synthesize("Hello.")
        await anext(stream)
        began = loop.time()
        await stream.aclose()
        assert loop.time() - began < 0.02
        await asyncio.wait_for(triton.cancelled.wait(), 2)
        await asyncio.wait_for(triton.ended.wait(), 2)
    assert not [t for t in asyncio.all_tasks() if "gateway" in str(t.get_coro())]


async def test_cancelling_the_reader_cancels_in_band() -> None:
    async with served(hang) as (triton, synthesizer):
        reader = asyncio.create_task(spoken(synthesizer))
        await triton.called.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(triton.cancelled.wait(), 2)


async def test_a_model_that_went_away_is_looked_for_again() -> None:
    async def speak(triton: Triton, request: Any, context: Any) -> None:
        if request.model_name not in triton.models:
            await context.write(
                service_pb2.ModelStreamInferResponse(
                    error_message=f"Request for unknown model: '{request.model_name}' has no available versions"
                )
            )
        else:
            await three_chunks(triton, request, context)

    async with served(speak, model("tts_a", default="true"), model("tts_b")) as (triton, synthesizer):
        await spoken(synthesizer)
        del triton.models["tts_a"]
        assert len(await spoken(synthesizer)) == 3
        assert [name for name, _ in triton.asked] == ["tts_a", "tts_a", "tts_b"]


async def test_nobody_there() -> None:
    synthesizer = TritonSynthesizer(TtsSettings(uri="127.0.0.1:1"))
    try:
        with pytest.raises(TtsError, match="PARLEY_TTS__URI"):
            await spoken(synthesizer)
        with pytest.raises(TtsError):
            await synthesizer.check()
    finally:
        await synthesizer.close()


async def test_the_settings_choose_the_kind() -> None:
    triton, riva = make_synthesizer(TtsSettings()), make_synthesizer(TtsSettings(kind="riva"))
    try:
        assert isinstance(triton, TritonSynthesizer)
        assert isinstance(riva, RivaSynthesizer)
    finally:
        await triton.close()
        await riva.close()


@pytest.mark.parametrize(
    "samples",
    [[0.0, 0.5, -1.0, 0.99996], [1.0, -1.0], [2.0, -3.0, 0.1], [float("nan"), 0.25], [float("inf"), -0.25], [0.5 / 32768, 1.5 / 32768]],
)  # fmt: skip
def test_samples_become_what_to_pcm_makes_of_them(samples: list[float]) -> None:
    audio = np.array(samples, np.float32)
    assert module._pcm(audio) == to_pcm(audio)
    assert module._pcm(audio.reshape(1, -1)) == to_pcm(audio)
    assert module._pcm(audio.astype(np.float64)) == to_pcm(audio.astype(np.float64))
