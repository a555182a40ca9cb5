"""The TTS API over real voices on the embedded Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import numpy as np
import pyloudnorm
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.protocol.tts_pb2_grpc import TtsStub
from gateway.riva.server import GRPC_OPTIONS, SpeechServer
from gateway.riva.tts_api.fleet_voices import FleetVoices
from gateway.riva.tts_api.make import add_tts_api
from gateway.settings import ModelsSettings, TritonSettings, TtsApiSettings
from gateway.triton.fleet.everywhere import Everywhere
from gateway.triton.fleet.fleet import Fleet
from tests.support.stack import Stack, shared_stack
from tests.unit.riva.tts_api.parts import Call, Heard, refusal

pytestmark = pytest.mark.stack

MODELS = ("tts_flite", "tts_espeak")
stack = shared_stack(*MODELS, scope="module")
TEXT = (
    "Well, the quick brown fox jumps over the lazy dog, and then it runs back into the forest. "
    "Nobody knows why it does so every single day, but it seems to be happy"
)

SHOUTED = "Yes! Stop! No, wait. I said: three hundred and fifty-six thousand, seven hundred and eighty-nine, exactly."
HISSED = "Sixteen ships slipped past the silent shore, seeking secret places. She sells sea shells on the sea shore."


@pytest.fixture
async def tts(stack: Stack) -> AsyncIterator[TtsStub]:
    fleet = Fleet(stack.triton.grpc, models=ModelsSettings(), label="test of the TTS API")
    await fleet.start()
    server = grpc.aio.server(options=GRPC_OPTIONS)
    voices = FleetVoices(fleet, chunk_s=5.0)
    service = add_tts_api(server, Everywhere(fleet), voices, TtsApiSettings(), address="here")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as ours:
        yield TtsStub(ours)  # type: ignore[no-untyped-call]
    await service.close()
    await server.stop(0)
    await fleet.close()


async def start(tts: TtsStub, *, voice: str) -> str:
    delivery = pb.Delivery(as_fast_as_possible=True)
    started = await tts.StartSession(pb.StartSessionRequest(delivery=delivery, voice=voice))
    return str(started.session_id)


async def say(tts: TtsStub, session: str, text: str) -> Heard:
    pieces = tuple(text[at : at + 5] for at in range(0, len(text), 5))
    return await Call(tts, session, pieces, True, None).rest()


@pytest.mark.parametrize("voice", ["flite.slt", "flite.kal16", "espeak.en-us", "espeak.en-gb-female"])
async def test_voices_speak_at_minus_16_lufs_from_the_first_word(tts: TtsStub, voice: str) -> None:
    session = await start(tts, voice=voice)
    for text in (TEXT, SHOUTED, HISSED):
        heard = await say(tts, session, text)
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.COMPLETED
        assert {len(frame) for frame in heard.frames} == {1_920}
        wave = np.frombuffer(heard.pcm, "<i2").astype(np.float64) / 32768
        assert len(wave) > 3 * 48_000
        assert pyloudnorm.Meter(48_000).integrated_loudness(wave) == pytest.approx(-16.0, abs=1.0)
        assert np.abs(wave).max() <= 10 ** (-1 / 20)
    await tts.EndSession(pb.EndSessionRequest(session_id=session))


async def test_pause_and_resume_change_no_sample(tts: TtsStub) -> None:
    session = await start(tts, voice="flite.kal16")
    reference = (await say(tts, session, TEXT)).pcm
    call = Call(tts, session, (TEXT,), True, None)
    for count in (1, 7, 40):
        await call.frames(count)
        for command in (pb.PAUSE, pb.RESUME):
            await tts.Control(pb.ControlRequest(session_id=session, command=command))
    heard = await call.rest()
    assert heard.pcm == reference
    await tts.EndSession(pb.EndSessionRequest(session_id=session))


async def test_stop_frees_the_model_for_others(tts: TtsStub) -> None:
    a, b = await start(tts, voice="flite.slt"), await start(tts, voice="espeak.en-us")
    first, second = Call(tts, a, (TEXT * 5,), True, None), asyncio.create_task(say(tts, b, TEXT))
    await first.frames(5)
    await tts.Control(pb.ControlRequest(session_id=a, command=pb.STOP))
    heard = await first.rest()
    assert heard.done is not None
    assert heard.done.outcome == voice_pb2.CANCELLED
    other = await second
    assert other.done is not None
    assert other.done.outcome == voice_pb2.COMPLETED
    for session in (a, b):
        await tts.EndSession(pb.EndSessionRequest(session_id=session))


async def test_a_service_that_stops_tells_those_whom_it_has_to_cut(stack: Stack) -> None:
    server = SpeechServer(TritonSettings(uri=stack.triton.grpc), ModelsSettings(), "127.0.0.1:0")
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        tts = TtsStub(channel)  # type: ignore[no-untyped-call]
        started = await tts.StartSession(pb.StartSessionRequest(voice="flite.kal16"))
        call = Call(tts, started.session_id, (TEXT,), True, None)
        await call.frames(1)
        stopping = asyncio.create_task(server.stop(0.5))
        error = await refusal(call.rest())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "is stopping" in str(error.details())
        assert len(call.heard.frames) > 5, "it had its grace"
        await stopping
