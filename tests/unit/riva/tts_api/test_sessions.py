"""Sessions of the TTS API: who may have one, what it holds, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.triton.manager.types import LoadFailed
from tests.support.tones import pitch_of
from tests.unit.riva.tts_api.parts import HELD, Rig, refusal, voice_model

CODE = grpc.StatusCode


def start(rig: Rig, session_id: str = "", **fields: Any) -> Any:
    return rig.stub.StartSession(pb.StartSessionRequest(session_id=session_id, **fields))


async def test_a_session_says_what_it_got() -> None:
    async with Rig().serve() as rig:
        started = await start(rig, "call-1", voice="bob", language="en-US")
        assert (started.session_id, started.model, started.voice) == ("call-1", "tts_a", "bob")
        assert started.audio == voice_pb2.AudioFormat(encoding=voice_pb2.PCM16, sample_rate=48_000)
        assert started.frame_bytes == 1_920
        assert rig.manager.leases["tts_a"] == 1
        assert (await start(rig)).session_id not in ("", "call-1")


@pytest.mark.parametrize(
    "call",
    [
        lambda rig: rig.control("nobody", pb.PAUSE),
        lambda rig: rig.control("nobody", pb.RESUME),
        lambda rig: rig.control("nobody", pb.STOP),
        lambda rig: rig.control("nobody", pb.RELOAD),
        lambda rig: rig.stub.EndSession(pb.EndSessionRequest(session_id="nobody")),
        lambda rig: rig.say("nobody", "hello"),
    ],
)
async def test_an_unknown_session_is_not_found(call: Any) -> None:
    async with Rig().serve() as rig:
        error = await refusal(call(rig))
        assert error.code() is CODE.NOT_FOUND
        assert "'nobody'" in str(error.details())


async def test_what_is_said_of_an_endless_name_fits_into_a_status() -> None:
    async with Rig().serve() as rig:
        for call in (rig.control("é" * 100_000, pb.PAUSE), rig.say("x" * 100_000, "hello")):
            error = await refusal(call)
            assert error.code() is CODE.NOT_FOUND
            assert "StartSession makes one" in str(error.details())
        for start in (rig.start(voice="é" * 100_000), rig.start(model="x" * 100_000)):
            assert (await refusal(start)).code() is CODE.INVALID_ARGUMENT


async def test_a_session_that_ended_is_unknown() -> None:
    async with Rig().serve() as rig:
        session = await rig.start("a")
        await rig.stub.EndSession(pb.EndSessionRequest(session_id=session))
        assert rig.manager.leases["tts_a"] == 0
        assert (await refusal(rig.control(session, pb.STOP))).code() is CODE.NOT_FOUND
        assert await rig.start("a") == "a", "its id is free again"


async def test_an_id_is_given_once_also_to_two_who_ask_at_once() -> None:
    async with Rig(resident=0).serve() as rig:
        rig.manager.gate = asyncio.Event()
        both = [asyncio.ensure_future(refusal_or_start(rig, "a")) for _ in range(2)]
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        rig.manager.gate.set()
        await asyncio.wait(pending)
        assert sorted(task.result() for task in both) == ["ALREADY_EXISTS", "OK"]
        assert rig.manager.leases["tts_a"] == 1


async def test_two_starts_at_the_limit_admit_one() -> None:
    async with Rig(resident=0, max_sessions=2).serve() as rig:
        await rig.start()
        rig.manager.loaded.clear()
        rig.manager.gate = asyncio.Event()
        both = [asyncio.ensure_future(refusal_or_start(rig)) for _ in range(2)]
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        rig.manager.gate.set()
        await asyncio.wait(pending)
        assert sorted(task.result() for task in both) == ["OK", "RESOURCE_EXHAUSTED"]


async def refusal_or_start(rig: Rig, session_id: str = "") -> str:
    try:
        await rig.start(session_id)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    async with Rig(resident=0).serve() as rig:
        rig.manager.failure = LoadFailed("tts_a does not load: its weights are missing")
        error = await refusal(start(rig, "a"))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert error.details() == "tts_a does not load: its weights are missing"
        assert await rig.start("a") == "a"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "tts_x"}, "no tts model tts_x: there is tts_a"),
        ({"voice": "carl"}, "no voice carl for any language: there is ann, bob"),
        ({"language": "ru-RU"}, "no tts model speaks ru-RU: there is de-DE, en-US"),
        ({"voice": "ann", "language": "ru-RU"}, "no tts model speaks ru-RU"),
        ({"policy": "best"}, "no routing policy best"),
        ({"style": pb.SpeakingStyle(speed=3)}, "speed is 3: use 0.5 to 2.0"),
        ({"delivery": pb.Delivery(lead_ms=5_000)}, "lead_ms is 5000: use 0 to 2000"),
        ({"session_id": "x" * 129}, "session_id is longer than 128"),
    ],
)
async def test_starts_that_cannot_be_served_say_what_to_do(fields: dict[str, Any], says: str) -> None:
    async with Rig().serve() as rig:
        error = await refusal(rig.stub.StartSession(pb.StartSessionRequest(**fields)))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert says in str(error.details())
        assert rig.manager.leases["tts_a"] == 0


async def test_a_model_that_cannot_do_it_is_not_asked_to() -> None:
    async with Rig(voice_model(inputs=("TEXT",))).serve() as rig:
        for style in (pb.SpeakingStyle(speed=1.5), pb.SpeakingStyle(style="calm")):
            error = await refusal(start(rig, style=style))
            assert error.code() is CODE.INVALID_ARGUMENT
            assert "tts_a" in str(error.details())


async def test_style_and_speed_reach_the_model() -> None:
    async with Rig().serve() as rig:
        session = await rig.start(voice="a.bob", style=pb.SpeakingStyle(style="calm", speed=1.5))
        await rig.say(session, "hello")
        await rig.say(session, "hello", style=pb.SpeakingStyle(), voice="ann", language="de-DE")
        assert [told for _, _, told in rig.voice.asked] == [
            {"TEXT": "hello", "VOICE": "bob", "STYLE": "calm", "SPEED": 1.5},
            {"TEXT": "hello", "VOICE": "ann", "LANGUAGE": "de-DE"},
        ]


async def test_a_session_that_nobody_uses_ends() -> None:
    async with Rig(idle_s=0.2).serve() as rig:
        session = await rig.start()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        error = await refusal(call.rest())
        assert error.code() is CODE.DEADLINE_EXCEEDED
        assert "nothing happened" in str(error.details())
        assert rig.manager.leases["tts_a"] == 0
        assert (await refusal(rig.control(session, pb.STOP))).code() is CODE.NOT_FOUND


async def test_a_session_outlives_calls_and_connections() -> None:
    async with Rig().serve() as rig:
        session = await rig.start("a")
        rig.voice.hold = asyncio.Event()
        async with grpc.aio.insecure_channel(rig.address) as other:
            ours, rig.stub = rig.stub, type(rig.stub)(other)
            await rig.open(session, "tone 500, a long text").frames(1)
            rig.stub = ours
        await rig.voice.notice.until(lambda: rig.voice.cancelled == 1)
        rig.voice.hold = None
        assert (await rig.say(session, "tone 700")).done is not None
        assert rig.manager.leases["tts_a"] == 1


async def test_cancelling_a_call_silences_the_model_and_frees_the_session() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        call.rpc.cancel()
        heard = rig.open(session, "tone 900")
        await rig.voice.notice.until(lambda: rig.voice.cancelled == 1)
        rig.voice.hold.set()
        assert (await heard.rest()).messages[0].utterance == 2


async def test_ending_a_session_ends_its_utterance_in_good_order() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        ended = await rig.stub.EndSession(pb.EndSessionRequest(session_id=session))
        assert ended.utterances == 1
        heard = await call.rest()
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.CANCELLED


async def test_one_utterance_at_a_time() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, "tone 500", end=False)
        error = await refusal(rig.say(session, "tone 700"))
        assert error.code() is CODE.FAILED_PRECONDITION
        assert "is speaking" in str(error.details())
        call.end()
        assert (await call.rest()).done is not None, "the one that was open is unharmed"


async def test_of_two_that_wait_for_the_end_of_an_utterance_one_speaks() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        first = rig.open(session, HELD, end=False)
        await first.frames(1)
        both = [rig.open(session, text, end=False) for text in (HELD, HELD)]
        waiting = [asyncio.create_task(call.read()) for call in both]
        await rig.stub.GetCapabilities(pb.GetCapabilitiesRequest())  # they have arrived
        first.rpc.cancel()
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        refused = [task.exception() for task in waiting if task in done and task.exception()]
        assert [error.code() for error in refused if isinstance(error, grpc.aio.AioRpcError)] == [
            CODE.FAILED_PRECONDITION
        ]
        rig.voice.hold.set()


async def test_a_model_switch_is_refused_unless_asked_for() -> None:
    async with Rig(voice_model(), voice_model("tts_b", voices=("zoe",))).serve() as rig:
        session = await rig.start(model="a")
        for other in ({"model": "tts_b"}, {"voice": "zoe"}):
            error = await refusal(rig.say(session, "tone 500", **other))
            assert error.code() is CODE.FAILED_PRECONDITION
            assert "switch_model" in str(error.details())
        assert rig.manager.leases == {"tts_a": 1, "tts_b": 0}
        await rig.say(session, "tone 500", model="b", switch_model=True)
        assert rig.voice.asked[-1][0] == "tts_b"
        assert rig.manager.leases == {"tts_a": 0, "tts_b": 1}
        await rig.say(session, "tone 600")
        assert rig.voice.asked[-1][0] == "tts_b", "the session goes on with it"
        await rig.say(session, "tone 600", model="tts_b")


async def test_a_fresh_client_hears_its_own_voice_only_after_it_asked() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        heard = await rig.say(session, "tone 800 it is")
        assert abs(pitch_of(heard.frames[2], 48_000) - 800) < 20
