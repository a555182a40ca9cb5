"""Models through the TTS API, what the service says of itself, and the level of voices."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.riva.tts_api.capabilities import gpus_from_metrics, gpus_in
from gateway.riva.tts_api.make import reachable
from gateway.triton.errors import TritonError
from gateway.triton.manager.types import LoadFailed, NoRoom, NotNow, Progress, State
from tests.unit.riva.tts_api.parts import Rig, refusal, voice_model

CODE = grpc.StatusCode


def two_models() -> Rig:
    return Rig(voice_model(default=True), voice_model("tts_b", voices=("zoe",)), resident=1)


async def load(rig: Rig, name: str) -> list[pb.LoadModelProgress]:
    return [progress async for progress in rig.stub.LoadModel(pb.LoadModelRequest(model=name))]


async def test_a_load_tells_its_progress_and_ends_ready() -> None:
    async with two_models().serve() as rig:
        rig.manager.gate = asyncio.Event()
        call = rig.stub.LoadModel(pb.LoadModelRequest(model="tts_b"))
        first = await call.read()
        assert (first.model, first.state, first.expected_s) == ("tts_b", pb.LOADING, 2.0)
        assert "tts_b" not in rig.manager.loaded, "progress comes while it loads"
        rig.manager.gate.set()
        assert (await call.read()).state == pb.READY
        assert await call.read() is grpc.aio.EOF
        assert "tts_b" in rig.manager.loaded


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (LoadFailed("tts_b does not load: a file is missing"), CODE.FAILED_PRECONDITION),
        (NoRoom("all 2 models are in use"), CODE.RESOURCE_EXHAUSTED),
        (NotNow("tts_b is being unloaded", wait_s=1.0), CODE.UNAVAILABLE),
        (TritonError("tts_b: broke"), CODE.INTERNAL),
    ],
)
async def test_a_load_that_fails_says_why(failure: Exception, code: grpc.StatusCode) -> None:
    async with two_models().serve() as rig:
        rig.manager.failure = failure
        error = await refusal(load(rig, "tts_b"))
        assert error.code() is code
        assert str(failure) in str(error.details())


async def test_a_model_that_does_not_exist_or_is_not_named() -> None:
    async with two_models().serve() as rig:
        unload = rig.stub.UnloadModel
        assert (await refusal(load(rig, "tts_x"))).code() is CODE.NOT_FOUND
        assert (await refusal(unload(pb.UnloadModelRequest(model="tts_x")))).code() is CODE.NOT_FOUND
        assert (await refusal(load(rig, " "))).code() is CODE.INVALID_ARGUMENT
        assert (await refusal(unload(pb.UnloadModelRequest()))).code() is CODE.INVALID_ARGUMENT


async def test_unloading_is_refused_while_leased_or_too_young_unless_forced() -> None:
    async with two_models().serve() as rig:
        session = await rig.start()
        unload = rig.stub.UnloadModel
        error = await refusal(unload(pb.UnloadModelRequest(model="tts_a")))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert error.details() == "tts_a is in use by 1 sessions: end them, or force it"
        assert "tts_a" in rig.manager.loaded
        await rig.stub.EndSession(pb.EndSessionRequest(session_id=session))
        rig.manager.min_residency_left_s = 60.0
        error = await refusal(unload(pb.UnloadModelRequest(model="tts_a")))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert "wait 60 s" in str(error.details())
        await unload(pb.UnloadModelRequest(model="tts_a", force=True))
        assert "tts_a" not in rig.manager.loaded


async def test_models_are_listed_with_their_state() -> None:
    async with Rig(
        voice_model(default=True), voice_model("tts_b"), voice_model("asr_c", family="asr"), resident=1
    ).serve() as rig:
        await rig.start()
        every = (await rig.stub.ListModels(pb.ListModelsRequest())).models
        assert [(m.name, m.state, m.leases, m.is_default) for m in every] == [
            ("tts_a", pb.READY, 1, True),
            ("tts_b", pb.ABSENT, 0, False),
        ]
        assert not every[0].HasField("evict_in_s")
        assert every[0].voices == ["ann", "bob"]
        resident = (await rig.stub.ListModels(pb.ListModelsRequest(resident_only=True))).models
        assert [m.name for m in resident] == ["tts_a"]
        others = (await rig.stub.ListModels(pb.ListModelsRequest(family="asr"))).models
        assert [m.name for m in others] == ["asr_c"]


async def test_capabilities_say_what_this_service_is_and_does() -> None:
    async with Rig(voice_model(), voice_model("tts_b"), resident=1, max_sessions=7).serve() as rig:
        told = await rig.stub.GetCapabilities(pb.GetCapabilitiesRequest())
        assert (told.name, told.address, told.sessions, told.max_sessions) == ("test", "here:1", 0, 7)
        assert list(told.audio) == [voice_pb2.AudioFormat(encoding=voice_pb2.PCM16, sample_rate=48_000)]
        assert told.frame_ms == 20
        assert told.hardware.cpus >= 1
        assert told.hardware.memory_mb > 100
        assert [m.name for m in told.resident] == ["tts_a"]
        assert (told.rtf, told.queue_depth) == (0.0, 0)
        assert told.commands == ["PAUSE", "RESUME", "STOP", "RELOAD"]
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, "Now tone 500 is held. Then tone 600 waits. And tone 700 too. ")
        await call.frames(1)
        told = await rig.stub.GetCapabilities(pb.GetCapabilitiesRequest())
        assert (told.sessions, told.queue_depth) == (1, 3)
        rig.voice.hold.set()
        await call.rest()
        told = await rig.stub.GetCapabilities(pb.GetCapabilitiesRequest())
        assert told.queue_depth == 0
        assert told.rtf > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", ""])
def test_the_address_told_is_one_that_others_can_use(host: str) -> None:
    assert reachable(f"{host}:50051") == f"{socket.gethostname()}:50051"
    assert reachable("127.0.0.1:50051") == "127.0.0.1:50051"


async def test_gpus_are_read_from_tritons_metrics() -> None:
    page = """\
# HELP nv_gpu_memory_total_bytes GPU total memory
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 85899345920
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 1073741824
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5
nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 1048576
"""
    assert [(g.name, g.memory_mb, g.used_mb) for g in gpus_in(page)] == [
        ("GPU-0", 1, 0),
        ("GPU-1", 81_920, 1_024),
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page.encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert len(await gpus_from_metrics(f"127.0.0.1:{port}")()) == 2
    assert await gpus_from_metrics("")() == []
    assert await gpus_from_metrics("127.0.0.1:1")() == []


async def test_a_voice_says_one_sentence_unheard_before_it_first_speaks() -> None:
    async with Rig(calibrate=True).serve() as rig:
        await asyncio.gather(*(rig.start(language="de-DE") for _ in range(3)))
        assert len(rig.voice.asked) == 1, "once for all who ask"
        assert rig.voice.asked[0][2]["TEXT"].startswith("Am Abend")
        heard = await rig.say(await rig.start(language="de-DE"), "tone 500")
        assert len(rig.voice.asked) == 2
        assert heard.done is not None


async def test_a_voice_that_cannot_be_listened_to_speaks_all_the_same() -> None:
    async with Rig(calibrate=True).serve() as rig:
        rig.voice.script = [TritonError("tts_a: broke")]
        session = await rig.start()
        assert (await rig.say(session, "tone 500")).done is not None
        await rig.start()
        assert len(rig.voice.asked) == 2, "it is not tried for ever"


@pytest.mark.parametrize("method", ["StartSession", "Control", "GetCapabilities", "LoadModel"])
async def test_bytes_that_are_no_message_are_refused_by_the_apis_own_name(method: str) -> None:
    async with two_models().serve() as rig, grpc.aio.insecure_channel(rig.address) as channel:
        streams = method == "LoadModel"
        kind: Any = channel.unary_stream if streams else channel.unary_unary
        call = kind(f"/parley.v1.Tts/{method}")(b"\x0a\xff\xff\xff")
        error = await refusal(call.read() if streams else call)
        assert error.code() is CODE.INVALID_ARGUMENT
        assert "parley.v1.Tts" in str(error.details())
        assert "Error" not in str(error.details())


async def test_a_new_version_is_not_told_ready_before_it_is() -> None:
    async with two_models().serve() as rig:
        rig.manager.progress = Progress("tts_a", State.READY, 168.0, 0.4)
        told = await load(rig, "tts_a")
        assert [each.state for each in told] == [pb.LOADING, pb.READY]
        assert all(each.elapsed_s < 60 for each in told), "of this load, not since the last one"
