"""A call to the speech service is its caller's: in the log by its session and turn, in a trace as a child."""

from __future__ import annotations

import io
import json
import logging

import grpc
import grpc.aio
import pytest
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.riva.server import SpeechServer
from gateway.settings import ModelsSettings, TritonSettings
from gateway.telemetry.logs import setup_logging
from gateway.telemetry.tracing import Tracing
from tests.support.collector import collecting
from tests.unit.riva.parts import config

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
METADATA = (("x-parley-session", "s-1"), ("x-parley-turn", "t-1"), ("traceparent", f"{PARENT}-01"))


async def fail(address: str, metadata: tuple[tuple[str, str], ...]) -> None:
    """One call of each service, of which there is none to serve it."""
    async with grpc.aio.insecure_channel(address) as channel:
        asr, tts = (
            riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel),
            riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel),
        )
        for call in (
            asr.Recognize(rasr.RecognizeRequest(config=config(), audio=b"\0\0"), metadata=metadata),
            tts.Synthesize(
                rtts.SynthesizeSpeechRequest(text="hello", language_code="en-US"), metadata=metadata
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_spans_are_children_of_the_caller_s_and_lines_have_its_names() -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    setup_logging("info", form="json", stream=stream)
    with collecting() as collector:
        tracing = Tracing(collector.url, service="parley-speech", instance="i", version="1", sample=0.0)
        server = SpeechServer(
            TritonSettings(uri="127.0.0.1:1", repositories=()),
            ModelsSettings(),
            "127.0.0.1:0",
            tracing=tracing,
        )
        try:
            address = await server.start()
            await fail(address, METADATA)
            await fail(address, (("traceparent", f"{PARENT}-00"),))  # its caller does not want it traced
            await fail(address, ())
        finally:
            await server.stop(0)
            await tracing.close()
            root.handlers[:] = before
            root.setLevel(level)
        spans = sorted(collector.spans, key=lambda span: span.name)
    assert [span.name for span in spans] == [
        "nvidia.riva.asr.RivaSpeechRecognition/Recognize",
        "nvidia.riva.tts.RivaSpeechSynthesis/Synthesize",
    ]
    for span in spans:
        assert (span.trace, span.parent) == (PARENT[3:35], PARENT[36:52])
        assert span.failed
        assert span.wire.status.message.startswith("UNAVAILABLE: ")
        assert span.about["parley.session_id"] == "s-1"
        assert span.about["rpc.system"] == "grpc"
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line for line in lines if line["message"].startswith("a call failed: UNAVAILABLE")]
    assert [(line.get("session"), line.get("turn"), line.get("trace")) for line in told] == [
        ("s-1", "t-1", PARENT[3:35]),
        ("s-1", "t-1", PARENT[3:35]),
        (None, None, PARENT[3:35]),
        (None, None, PARENT[3:35]),
        (None, None, None),
        (None, None, None),
    ]
