"""The Riva client against a real gRPC server in this process that answers by script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from pydantic import SecretStr
from riva.client.proto import riva_asr_pb2 as pb
from riva.client.proto import riva_asr_pb2_grpc

from gateway.audio.pcm import to_pcm
from gateway.listen import riva_asr as module
from gateway.listen.asr import AsrError, Hypothesis
from gateway.listen.riva_asr import RivaRecognizer
from gateway.settings import AsrSettings

LOUD = to_pcm((0.2 * np.random.default_rng(0).standard_normal(1_600)).astype(np.float32))
"""100 ms of noise."""

Script = Callable[["Service", AsyncIterator[pb.StreamingRecognizeRequest], Any], Awaitable[None]]


class Service(riva_asr_pb2_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]
    """Runs one script for each call and remembers what it was sent."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.config: pb.StreamingRecognitionConfig | None = None
        self.metadata: dict[str, str] = {}
        self.audio = b""
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.types = ["online"]

    async def StreamingRecognize(
        self, request_iterator: AsyncIterator[pb.StreamingRecognizeRequest], context: Any
    ) -> None:
        self.metadata = dict(context.invocation_metadata())
        first = await anext(request_iterator)
        self.config = first.streaming_config
        self.called.set()
        try:
            await self.script(self, request_iterator, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetRivaSpeechRecognitionConfig(
        self, request: pb.RivaSpeechRecognitionConfigRequest, context: Any
    ) -> pb.RivaSpeechRecognitionConfigResponse:
        config = pb.RivaSpeechRecognitionConfigResponse.Config
        return pb.RivaSpeechRecognitionConfigResponse(
            model_config=[config(model_name="m", parameters={"type": kind}) for kind in self.types]
        )


def said(*results: tuple[str, bool, float]) -> pb.StreamingRecognizeResponse:
    """(transcript, is_final, stability) each."""
    return pb.StreamingRecognizeResponse(
        results=[
            pb.StreamingRecognitionResult(
                alternatives=[pb.SpeechRecognitionAlternative(transcript=text)],
                is_final=final,
                stability=sure,
            )
            for text, final, sure in results
        ]
    )


@contextlib.asynccontextmanager
async def served(script: Script, **options: Any) -> AsyncIterator[tuple[Service, RivaRecognizer]]:
    server = grpc.aio.server()
    service = Service(script)
    riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    recognizer = RivaRecognizer(AsrSettings(uri=f"127.0.0.1:{port}", **options))
    try:
        yield service, recognizer
    finally:
        await recognizer.close()
        await server.stop(None)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield LOUD
        await asyncio.sleep(0)


async def stalled() -> AsyncIterator[bytes]:
    yield LOUD
    await asyncio.Event().wait()


async def all_of(recognizer: RivaRecognizer, audio: AsyncIterator[bytes], **options: Any) -> list[Hypothesis]:
    return [heard async for heard in recognizer.recognize(audio, **({"language": "en-US"} | options))]


def left_behind(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Tasks of ours that were not there before (grpc's own server tasks may linger a moment)."""
    return {t for t in asyncio.all_tasks() - before if "riva_asr" in str(t.get_coro())}


async def echo_words(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
    async for request in requests:
        service.audio += request.audio_content
        await context.write(said(("hello ", False, 0.9), ("wor", False, 0.1)))
    await context.write(said((" hello world ", True, 0)))


async def test_interim_and_final_are_told_apart() -> None:
    async with served(echo_words) as (service, recognizer):
        heard = await all_of(recognizer, chunks(LOUD, LOUD[:10], b"", LOUD))
        assert heard == [
            Hypothesis("hello wor", False, len("hello")),
            Hypothesis("hello world", True, len("hello world")),
        ]
        assert service.audio == LOUD + LOUD[:10] + LOUD


async def test_language_is_explicit_and_settings_reach_the_wire() -> None:
    options: dict[str, Any] = {
        "model": "big",
        "language": "de-DE",
        "api_key": SecretStr("k"),
        "metadata": {"function-id": "f"},
    }
    async with served(echo_words, **options) as (service, recognizer):
        await all_of(recognizer, chunks(LOUD), language="", hints=["Parley"])
        assert service.config is not None
        config = service.config.config
        assert service.config.interim_results
        assert (config.language_code, config.model, config.sample_rate_hertz) == ("de-DE", "big", 16_000)
        assert config.encoding == 1
        assert config.enable_word_time_offsets
        assert list(config.speech_contexts[0].phrases) == ["Parley"]
        assert service.metadata["authorization"] == "Bearer k"
        assert service.metadata["function-id"] == "f"
        await all_of(recognizer, chunks(LOUD), language="fr-FR")
        assert service.config.config.language_code == "fr-FR"


async def test_a_server_that_refuses_unknown_keys_is_asked_without_them() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        assert service.config is not None
        if service.config.config.custom_configuration:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown custom_configuration key")
        await echo_words(service, requests, context)

    async with served(script) as (_, recognizer):
        with pytest.raises(AsrError) as caught:
            await all_of(recognizer, chunks(LOUD))
        assert caught.value.retryable
        assert (await all_of(recognizer, chunks(LOUD)))[-1].text == "hello world"


async def test_the_end_of_the_utterance_is_ours() -> None:
    async with served(echo_words) as (service, recognizer):
        await all_of(recognizer, chunks(LOUD))
        assert service.config is not None
        assert dict(service.config.config.custom_configuration) == {"parley.endpointing": "off"}


async def test_several_finals_of_one_stream_are_one_text() -> None:
    more = asyncio.Event()

    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await anext(requests)
        await context.write(said(("one ", True, 0)))
        await context.write(said(("tw", False, 0.1)))
        await context.write(said((" two", True, 0)))
        async for _ in requests:
            pass
        await context.write(said(("three", True, 0)))

    async def audio() -> AsyncIterator[bytes]:
        yield LOUD
        await more.wait()
        yield LOUD

    async with served(script) as (_, recognizer):
        heard = []
        async for hypothesis in recognizer.recognize(audio(), language="en-US"):
            heard.append(hypothesis)
            if hypothesis.text == "one two":
                more.set()
    assert [(h.text, h.stable) for h in heard if not h.final] == [("one", 3), ("one tw", 3), ("one two", 7)]
    assert heard[-1] == Hypothesis("one two three", True, 13)


async def test_words_keep_their_times() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass
        response = said(("two words", True, 0))
        best = response.results[0].alternatives[0]
        best.words.add(word="two", start_time=100, end_time=300)
        best.words.add(word="words", start_time=320, end_time=700)
        await context.write(response)

    async with served(script) as (_, recognizer):
        final = (await all_of(recognizer, chunks(LOUD)))[-1]
        assert [(w.text, w.start_ms, w.end_ms) for w in final.words] == [
            ("two", 100, 300),
            ("words", 320, 700),
        ]


async def test_a_stream_without_a_final_keeps_the_last_partial() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await context.write(said(("half a", False, 0.1)))
        async for _ in requests:
            pass

    async with served(script) as (_, recognizer):
        assert (await all_of(recognizer, chunks(LOUD)))[-1] == Hypothesis("half a", True, 6)


async def test_silence_is_an_empty_final() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass

    async with served(script) as (_, recognizer):
        assert await all_of(recognizer, chunks(bytes(3200))) == [Hypothesis("", True)]


@pytest.mark.parametrize(
    ("code", "details", "retryable", "text"),
    [
        (grpc.StatusCode.UNAVAILABLE, "going away", True, "PARLEY_ASR__URI"),
        (grpc.StatusCode.INTERNAL, "boom\nTraceback: x", True, "failed: boom$"),
        (grpc.StatusCode.INVALID_ARGUMENT, "no such rate", False, "no such rate"),
        (
            grpc.StatusCode.UNKNOWN,
            "Error: Unavailable model requested. Lang: ru-RU, Type: online",
            False,
            "ru-RU",
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "bad key", False, "PARLEY_ASR__API_KEY"),
    ],
)
async def test_asr_failure_surfaces_as_error_not_success(
    code: grpc.StatusCode, details: str, retryable: bool, text: str
) -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await context.abort(code, details)

    async with served(script, api_key=SecretStr("s3cret")) as (_, recognizer):
        with pytest.raises(AsrError, match=text) as caught:
            await all_of(recognizer, chunks(*[LOUD] * 50))
        assert caught.value.retryable is retryable
        assert "s3cret" not in str(caught.value)
        assert "Traceback" not in str(caught.value)


async def test_nobody_there() -> None:
    recognizer = RivaRecognizer(AsrSettings(uri="127.0.0.1:1"))
    try:
        with pytest.raises(AsrError, match="start it") as caught:
            await all_of(recognizer, chunks(LOUD))
        assert caught.value.retryable
        with pytest.raises(AsrError):
            await recognizer.check()
    finally:
        await recognizer.close()


async def test_a_service_that_answers_nothing_while_fed_is_silent() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass

    async with served(script, silence_ms=200) as (_, recognizer):
        with pytest.raises(AsrError, match="fell silent"):
            await all_of(recognizer, endless())


async def test_a_service_that_takes_no_audio_is_silent() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await asyncio.Event().wait()

    async with served(script, silence_ms=300) as (_, recognizer):
        with pytest.raises(AsrError, match="fell silent"):
            await all_of(recognizer, chunks(*[LOUD * 100] * 80))


async def test_a_final_that_never_comes_has_a_deadline() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass
        await asyncio.Event().wait()

    async with served(script, deadline_ms=100) as (_, recognizer):
        with pytest.raises(AsrError, match="no final transcript"):
            await all_of(recognizer, chunks(LOUD))


async def test_a_stream_that_ends_before_the_audio_is_an_error() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await anext(requests)

    async with served(script) as (_, recognizer):
        with pytest.raises(AsrError, match="before the audio"):
            await all_of(recognizer, stalled())


async def test_closing_early_cancels_the_call_and_leaves_no_task() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await context.write(said(("a", False, 0.1)))
        await asyncio.Event().wait()

    async with served(script) as (service, recognizer):
        before = asyncio.all_tasks()
        stream = recognizer.recognize(stalled(), language="en-US")
        assert (await anext(stream)).text == "a"
        async with asyncio.timeout(0.2):
            await stream.aclose()
        assert not left_behind(before)
        await asyncio.wait_for(service.cancelled.wait(), 2)


async def test_cancelling_the_reader_cancels_the_call() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await asyncio.Event().wait()

    async with served(script) as (service, recognizer):
        before = asyncio.all_tasks()
        reader = asyncio.create_task(all_of(recognizer, stalled()))
        await service.called.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not left_behind(before)
        await asyncio.wait_for(service.cancelled.wait(), 2)


async def test_audio_that_fails_fails_the_recognition() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await asyncio.Event().wait()

    async def broken() -> AsyncIterator[bytes]:
        yield LOUD
        raise LookupError("no more")

    async with served(script) as (_, recognizer):
        with pytest.raises(LookupError):
            await all_of(recognizer, broken())


async def test_what_is_no_answer_at_all_is_an_error_even_after_the_audio() -> None:
    async def garbage(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            pass
        await context.write(said(("hello", False, 0.5)).SerializeToString())
        await context.write(b"\xff\xff\x0f no message")

    server = grpc.aio.server()
    method: Any = grpc.stream_stream_rpc_method_handler(garbage)
    handler = grpc.method_handlers_generic_handler(
        "nvidia.riva.asr.RivaSpeechRecognition", {"StreamingRecognize": method}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    recognizer = RivaRecognizer(AsrSettings(uri=f"127.0.0.1:{port}"))
    try:
        with pytest.raises(AsrError, match="is not the Riva ASR API") as caught:
            await all_of(recognizer, chunks(LOUD))
        assert caught.value.retryable
    finally:
        await recognizer.close()
        await server.stop(None)


async def test_check_wants_a_streaming_model() -> None:
    async with served(echo_words) as (service, recognizer):
        await recognizer.check()
        service.types = ["offline"]
        with pytest.raises(AsrError, match="no streaming recogniser"):
            await recognizer.check()
        service.types = []
        with pytest.raises(AsrError):
            await recognizer.check()


async def test_one_timer_watches_a_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rung = 0
    set_timer = module._Feed._ring_at

    def count(feed: module._Feed, at: float) -> None:
        nonlocal rung
        rung += 1
        set_timer(feed, at)

    monkeypatch.setattr(module._Feed, "_ring_at", count)
    async with served(echo_words) as (service, recognizer):
        await all_of(recognizer, chunks(*[LOUD] * 60))
        assert service.audio == LOUD * 60
    assert rung <= 2, "the first write, and the final"


async def test_a_cancelled_reader_is_cancelled_whatever_the_writer_met() -> None:
    begun = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield LOUD
        await begun.wait()
        raise RuntimeError("the microphone is gone")

    async def deaf(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        await asyncio.Event().wait()

    async with served(deaf) as (service, recognizer):
        listening = asyncio.create_task(all_of(recognizer, broken()))
        await service.called.wait()
        begun.set()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening


async def test_loudness_is_measured_only_where_answers_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0
    count = module._Feed._count

    def counted(feed: module._Feed, since: float, chunk: bytes) -> None:
        nonlocal measured
        measured += 1
        count(feed, since, chunk)

    monkeypatch.setattr(module._Feed, "_count", counted)

    async def slow(answered: asyncio.Event) -> AsyncIterator[bytes]:
        for _ in range(8):
            yield LOUD
            await answered.wait()
            answered.clear()

    answered = asyncio.Event()

    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        number = 0
        async for _ in requests:
            number += 1
            await context.write(said((f"word {number}", False, 0.1)))

    async with served(script, silence_ms=400) as (_, recognizer):
        async for _ in recognizer.recognize(slow(answered), language="en-US"):
            answered.set()
    assert not measured, "each chunk was answered before there were two"


async def test_quiet_audio_needs_no_answer() -> None:
    async def script(service: Service, requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass
        await context.write(said(("", True, 0)))

    async def quiet() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(3_200)
            await asyncio.sleep(0.02)

    async with served(script, silence_ms=200) as (_, recognizer):
        assert (await all_of(recognizer, quiet()))[-1].final
