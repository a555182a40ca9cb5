"""The server as a whole: health, reflection, addresses, and a Triton that is not there."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.protocol import tts_pb2
from gateway.riva.asr import SpeechRecognition
from gateway.riva.health import SERVICES, Health
from gateway.riva.models import SpeechModels
from gateway.riva.server import SpeechServer
from gateway.riva.streams import KIND_OF, CountStreams
from gateway.riva.tts import SpeechSynthesis
from gateway.settings import ModelsSettings, TritonSettings
from gateway.telemetry.speech_metrics import SpeechMetrics
from gateway.triton.errors import TritonUnavailable
from tests.support.fakes import FakeVad
from tests.unit.riva.parts import FakeAsr, FakeFleet, FakeRepository, FakeTts, Notice, config, model


def server_nowhere(listen: str) -> SpeechServer:
    return SpeechServer(TritonSettings(uri="127.0.0.1:1", repositories=()), ModelsSettings(), listen)


SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ASR_SERVICE, TTS_SERVICE = SERVICES


async def test_without_triton_every_request_is_unavailable_and_health_says_so() -> None:
    server = server_nowhere("127.0.0.1:0")
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            asr = riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel)
            tts = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel)
            for call in (
                asr.Recognize(rasr.RecognizeRequest(config=config(), audio=b"\0\0")),
                asr.GetRivaSpeechRecognitionConfig(rasr.RivaSpeechRecognitionConfigRequest()),
                tts.Synthesize(rtts.SynthesizeSpeechRequest(text="hello", language_code="en-US")),
                tts.GetRivaSynthesisConfig(rtts.RivaSynthesisConfigRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "try again" in str(caught.value.details())
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", *SERVICES):
                reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="foo"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        await server.stop(0)
        await server.stop(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {left}"


async def test_reflection_lists_the_services() -> None:
    server = server_nowhere("127.0.0.1:0")
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            names = {s.name async for reply in call for s in reply.list_services_response.service}
        assert {*SERVICES, "grpc.health.v1.Health"} <= names
    finally:
        await server.stop(0)


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}"):
            await server_nowhere(address).start()


async def test_health_follows_the_models() -> None:
    repository = FakeRepository(model("asr_a"))
    checks = Health(SpeechModels(FakeFleet(repository, FakeAsr(), FakeTts(Notice()))))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await checks.update()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def status(service: str) -> int:
                return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

            watch = stub.Watch(health_pb2.HealthCheckRequest(service=TTS_SERVICE))
            assert (await watch.read()).status == NOT_SERVING
            assert [await status(s) for s in ("", ASR_SERVICE, TTS_SERVICE)] == [
                SERVING,
                SERVING,
                NOT_SERVING,
            ]
            repository.models["tts_a"] = model("tts_a")
            await checks.update()
            assert (await watch.read()).status == SERVING
            assert await status(TTS_SERVICE) == SERVING
            repository.failure = TritonUnavailable("down")
            await checks.update()
            assert (await watch.read()).status == NOT_SERVING
            assert await status("") == NOT_SERVING
            repository.failure = None
            assert await status(ASR_SERVICE) == SERVING, "a check looks for itself when the last look failed"
            watch.cancel()
    finally:
        await server.stop(0)


async def test_a_watcher_that_leaves_takes_no_news_from_the_others() -> None:
    repository = FakeRepository(model("asr_a"))
    checks = Health(SpeechModels(FakeFleet(repository, FakeAsr(), FakeTts(Notice()))))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await checks.update()
    asked = health_pb2.HealthCheckRequest(service=ASR_SERVICE)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            first, second = (health_pb2_grpc.HealthStub(channel).Watch(asked) for _ in range(2))
            for watch in (first, second):
                assert (await watch.read()).status == SERVING
            first.cancel()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as other:
                health = health_pb2_grpc.HealthStub(other)
                assert (await health.Check(asked)).status == SERVING  # behind the cancel
            repository.models.clear()
            await checks.update()
            assert (await asyncio.wait_for(second.read(), 5)).status == NOT_SERVING
            await checks.leave()
            assert await asyncio.wait_for(second.read(), 5) is grpc.aio.EOF
    finally:
        await server.stop(0)


async def test_open_calls_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    repository = FakeRepository(model("asr_a"), model("tts_a"))
    models = SpeechModels(FakeFleet(repository, FakeAsr(), FakeTts(Notice())))
    server = grpc.aio.server(interceptors=[CountStreams(SpeechMetrics(registry, max_streams=7))])
    riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(
        SpeechRecognition(models, FakeVad(), chunk_deadline_s=1), server
    )
    riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(SpeechSynthesis(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def now() -> tuple[float | None, float | None]:
        asr, tts = ({"kind": kind} for kind in ("asr", "tts"))
        name = "parley_speech_streams_active"
        return registry.get_sample_value(name, asr), registry.get_sample_value(name, tts)

    assert registry.get_sample_value("parley_speech_streams_capacity") == 7
    assert now() == (0, 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            asr = riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel)
            tts = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel)
            heard = asr.StreamingRecognize()
            streaming = rasr.StreamingRecognitionConfig(config=config(), interim_results=True)
            await heard.write(rasr.StreamingRecognizeRequest(streaming_config=streaming))
            await heard.write(rasr.StreamingRecognizeRequest(audio_content=b"\x00\x40" * 16_000))
            await heard.read()
            assert now() == (1, 0)
            request = rtts.SynthesizeSpeechRequest(text="hello", language_code="en-US", sample_rate_hz=16_000)
            said = tts.SynthesizeOnline([request])
            await said.read()
            while await said.read() is not grpc.aio.EOF:
                pass
            assert now() == (1, 0)
            await heard.done_writing()
            while await heard.read() is not grpc.aio.EOF:
                pass
            assert now() == (0, 0)
            await tts.Synthesize(request)
            await asr.Recognize(rasr.RecognizeRequest(config=config(), audio=b"\0\0"))
    finally:
        await server.stop(0)
    assert now() == (0, 0)


async def test_every_kind_of_call_for_speech_is_counted() -> None:
    """The names are those that the services are registered under; a new method for speech is noticed here."""
    there = {
        f"/{service.full_name}/{method.name}"
        for service in (
            rasr.DESCRIPTOR.services_by_name["RivaSpeechRecognition"],
            rtts.DESCRIPTOR.services_by_name["RivaSpeechSynthesis"],
            tts_pb2.DESCRIPTOR.services_by_name["Tts"],
        )
        for method in service.methods
        if "ecognize" in method.name or "ynthesize" in method.name
    }
    assert set(KIND_OF) == there
