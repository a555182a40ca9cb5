"""The Riva synthesiser against a real gRPC server in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr
from riva.client.proto import riva_tts_pb2 as pb
from riva.client.proto import riva_tts_pb2_grpc

from gateway.settings import TtsSettings
from gateway.speak.riva_tts import RivaSynthesizer
from gateway.speak.tts import Chunk, TtsError

Script = Callable[[Any], Awaitable[None]]


class Service(riva_tts_pb2_grpc.RivaSpeechSynthesisServicer):  # type: ignore[misc]
    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[pb.SynthesizeSpeechRequest] = []
        self.metadata: dict[str, str] = {}
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.voices = 1

    async def SynthesizeOnline(self, request_iterator: AsyncIterator[Any], context: Any) -> None:
        self.metadata = dict(context.invocation_metadata())
        try:
            async for request in request_iterator:
                self.requests.append(request)
            self.called.set()
            await self.script(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetRivaSynthesisConfig(self, request: Any, context: Any) -> pb.RivaSynthesisConfigResponse:
        config = pb.RivaSynthesisConfigResponse.Config
        return pb.RivaSynthesisConfigResponse(model_config=[config(model_name="v")] * self.voices)


@contextlib.asynccontextmanager
async def served(script: Script, **options: Any) -> AsyncIterator[tuple[Service, RivaSynthesizer]]:
    server = grpc.aio.server()
    service = Service(script)
    riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    synthesizer = RivaSynthesizer(TtsSettings(kind="riva", uri=f"127.0.0.1:{port}", **options))
    try:
        yield service, synthesizer
    finally:
        await synthesizer.close()
        await server.stop(None)


async def spoken(synthesizer: RivaSynthesizer, text: str = "Hello.", **options: Any) -> list[Chunk]:
    return [chunk async for chunk in synthesizer.synthesize(text, **options)]


async def odd_pieces(context: Any) -> None:
    await context.write(pb.SynthesizeSpeechResponse(audio=b"\x01\x02\x03"))
    await context.write(pb.SynthesizeSpeechResponse(audio=b""))
    await context.write(pb.SynthesizeSpeechResponse(audio=b"\x04\x05\x06"))


async def one_and_hang(context: Any) -> None:
    await context.write(pb.SynthesizeSpeechResponse(audio=bytes(320)))
    await asyncio.Event().wait()


async def hang(context: Any) -> None:
    await asyncio.Event().wait()


async def nothing(context: Any) -> None:
    pass


async def test_request_and_whole_samples() -> None:
    options: dict[str, Any] = {"voice": "v.a", "api_key": SecretStr("k"), "metadata": {"function-id": "f"}}
    async with served(odd_pieces, **options) as (service, synthesizer):
        assert await spoken(synthesizer, language="de-DE") == [
            Chunk(b"\x01\x02", 22_050),
            Chunk(b"\x03\x04\x05\x06", 22_050),
        ]
        (request,) = service.requests
        assert (request.text, request.language_code, request.voice_name) == ("Hello.", "de-DE", "v.a")
        assert (request.encoding, request.sample_rate_hz) == (1, 22_050)
        assert service.metadata["authorization"] == "Bearer k"
        assert service.metadata["function-id"] == "f"


async def test_empty_audio_is_an_error_and_nothing_to_say_is_not() -> None:
    async with served(nothing) as (service, synthesizer):
        with pytest.raises(TtsError, match="no audio"):
            await spoken(synthesizer)
        assert await spoken(synthesizer, " … ") == []
        assert len(service.requests) == 1


@pytest.mark.parametrize(("script", "heard"), [(hang, 0), (one_and_hang, 1)])
async def test_every_wait_for_a_chunk_has_a_deadline(script: Script, heard: int) -> None:
    async with served(script, first_chunk_ms=150, chunk_ms=100) as (service, synthesizer):
        stream = synthesizer.synthesize("Hello.")
        for _ in range(heard):
            await anext(stream)
        with pytest.raises(TtsError, match="fell silent"):
            await anext(stream)
        await asyncio.wait_for(service.cancelled.wait(), 2)


@pytest.mark.parametrize(
    ("code", "details", "text"),
    [
        (grpc.StatusCode.UNKNOWN, "Model is not available on server: Voice foo\nstack", "Voice foo$"),
        (grpc.StatusCode.UNAVAILABLE, "gone", "PARLEY_TTS__URI"),
        (grpc.StatusCode.UNAVAILABLE, "Error: no model is ready", "not serve now: Error: no model is ready"),
        (grpc.StatusCode.UNAUTHENTICATED, "key", "PARLEY_TTS__API_KEY"),
    ],
)
async def test_errors_are_told(code: grpc.StatusCode, details: str, text: str) -> None:
    async def script(context: Any) -> None:
        await context.abort(code, details)

    async with served(script) as (_, synthesizer):
        with pytest.raises(TtsError, match=text):
            await spoken(synthesizer)


async def test_closing_early_cancels_the_call_and_returns_at_once() -> None:
    async with served(one_and_hang) as (service, synthesizer):
        stream = synthesizer.synthesize("Hello.")
        await anext(stream)
        async with asyncio.timeout(0.1):
            await stream.aclose()
        await asyncio.wait_for(service.cancelled.wait(), 2)


async def test_cancelling_the_reader_cancels_the_call() -> None:
    async with served(hang) as (service, synthesizer):
        reader = asyncio.create_task(spoken(synthesizer))
        await service.called.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(service.cancelled.wait(), 2)


async def test_check_wants_a_voice() -> None:
    async with served(nothing) as (service, synthesizer):
        await synthesizer.check()
        service.voices = 0
        with pytest.raises(TtsError, match="no voice"):
            await synthesizer.check()


async def test_what_is_no_answer_at_all_is_an_error() -> None:
    async def garbage(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(pb.SynthesizeSpeechResponse(audio=bytes(64)).SerializeToString())
        await context.write(b"\xff\xff\x0f no message")

    server = grpc.aio.server()
    method: Any = grpc.stream_stream_rpc_method_handler(garbage)
    handler = grpc.method_handlers_generic_handler(
        "nvidia.riva.tts.RivaSpeechSynthesis", {"SynthesizeOnline": method}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    synthesizer = RivaSynthesizer(TtsSettings(kind="riva", uri=f"127.0.0.1:{port}"))
    try:
        with pytest.raises(TtsError, match="is not the Riva TTS API"):
            await spoken(synthesizer)
    finally:
        await synthesizer.close()
        await server.stop(None)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "the server is being stopped"),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
    ],
)
async def test_what_a_service_that_is_being_stopped_would_not_take_is_asked_for_twice_more(
    code: grpc.StatusCode, details: str
) -> None:
    calls = 0

    async def stopped_at_first(context: Any) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            await context.abort(code, details)
        await odd_pieces(context)

    async with served(stopped_at_first) as (_, synthesizer):
        assert b"".join(chunk.pcm for chunk in await spoken(synthesizer)) == b"\x01\x02\x03\x04\x05\x06"
    assert calls == 3


async def test_what_was_heard_in_part_is_not_said_again() -> None:
    async def breaks_off(context: Any) -> None:
        await context.write(pb.SynthesizeSpeechResponse(audio=bytes(320)))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is being stopped")

    async with served(breaks_off) as (service, synthesizer):
        with pytest.raises(TtsError):
            await spoken(synthesizer)
        assert len(service.requests) == 1
