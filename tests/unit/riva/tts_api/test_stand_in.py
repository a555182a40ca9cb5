"""A session whose model is still being loaded: another one speaks, the client is told, and the next utterance moves."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.triton.errors import TritonError, TritonUnavailable
from tests.unit.riva.tts_api.parts import HELD, Heard, Rig, refusal, voice_model

ZOE = ("zoe",)


def town(**settings: object) -> Rig:
    """tts_a is resident, tts_b is not."""
    rig = Rig(voice_model(voices=("ann",)), voice_model("tts_b", voices=ZOE), resident=1, **settings)
    rig.fleet.stand_ins = True
    return rig


async def start(rig: Rig, **fields: object) -> pb.StartSessionResponse:
    delivery = pb.Delivery(as_fast_as_possible=True)
    request = pb.StartSessionRequest(delivery=delivery, **fields)  # type: ignore[arg-type]
    started: pb.StartSessionResponse = await rig.stub.StartSession(request)
    return started


def spoken_by(heard: Heard) -> tuple[str, str]:
    assert heard.done is not None
    return heard.done.model, heard.done.instead_of


def asked(rig: Rig) -> list[tuple[str, str]]:
    """Model and voice of each text."""
    return [(model, told.get("VOICE", "")) for model, _, told in rig.voice.asked]


async def test_the_wanted_model_speaks_from_the_first_utterance_after_it_is_loaded() -> None:
    async with town().serve() as rig:
        started = await start(rig, model="b", voice="zoe")
        assert (started.model, started.voice, started.instead_of) == ("tts_a", "", "tts_b")
        session = started.session_id
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_a", "tts_b")
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_a", "tts_b")
        await rig.manager.load("tts_b")
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_b", "")
        assert asked(rig) == [("tts_a", ""), ("tts_a", ""), ("tts_b", "zoe")]
        assert rig.manager.leases == {"tts_a": 0, "tts_b": 1}


async def test_an_utterance_keeps_the_voice_it_began_with() -> None:
    async with town().serve() as rig:
        session = (await start(rig, model="b")).session_id
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        await rig.manager.load("tts_b")
        rig.voice.hold.set()
        call.send("and so it goes on. And on it goes. ")
        call.end()
        assert spoken_by(await call.rest()) == ("tts_a", "tts_b")
        assert {model for model, _ in asked(rig)} == {"tts_a"}
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_b", "")


@pytest.mark.parametrize("wish", [{"model": "b"}, {"voice": "zoe"}, {"model": "b", "voice": "zoe"}])
async def test_what_the_session_asked_for_is_not_refused_while_another_model_speaks(
    wish: dict[str, str],
) -> None:
    async with town().serve() as rig:
        session = (await start(rig, model="b", voice="zoe")).session_id
        assert spoken_by(await rig.say(session, "tone 500", **wish)) == ("tts_a", "tts_b")
        error = await refusal(rig.say(session, "tone 500", voice="carl"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        await rig.manager.load("tts_b")
        await rig.say(session, "tone 500", **wish)
        assert asked(rig) == [("tts_a", ""), ("tts_b", "zoe")]


async def test_reload_of_the_one_that_speaks_meanwhile_does_not_end_the_wait() -> None:
    async with town().serve() as rig:
        session = (await start(rig, model="b")).session_id
        assert (await rig.control(session, pb.RELOAD)).version == "2"
        assert rig.manager.loads == ["tts_a"]
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_a", "tts_b")
        await rig.manager.load("tts_b")
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_b", "")


async def test_a_new_voice_says_its_sentence_unheard_before_it_takes_over() -> None:
    async with town(calibrate=True).serve() as rig:
        session = (await start(rig, model="b")).session_id
        await rig.say(session, "tone 500")
        await rig.manager.load("tts_b")
        for _ in range(2):
            await rig.say(session, "tone 500")
        assert [model for model, _ in asked(rig)] == ["tts_a", "tts_a", "tts_b", "tts_b", "tts_b"]


async def test_a_style_that_the_wanted_model_does_not_have_is_refused_when_it_speaks() -> None:
    rig = Rig(voice_model(), voice_model("tts_b", inputs=("TEXT",)), resident=1)
    rig.fleet.stand_ins = True
    async with rig.serve():
        session = (await start(rig, model="b", style=pb.SpeakingStyle(speed=1.5))).session_id
        await rig.say(session, "tone 500")
        await rig.manager.load("tts_b")
        error = await refusal(rig.say(session, "tone 500"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "tts_b has one speed" in str(error.details())
        await rig.say(session, "tone 500", style=pb.SpeakingStyle())
        assert asked(rig)[-1][0] == "tts_b"


async def test_a_model_that_is_lost_in_an_utterance_gives_way_to_one_with_its_own_voice() -> None:
    async with town().serve() as rig:
        rig.manager.loaded.add("tts_b")
        session = (await start(rig, model="b", voice="zoe")).session_id
        rig.manager.loaded.discard("tts_b")
        rig.voice.script = [TritonUnavailable("tts_b: unknown model")]
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_a", "tts_b")
        assert asked(rig) == [("tts_b", "zoe"), ("tts_a", "")]
        await rig.manager.load("tts_b")
        assert spoken_by(await rig.say(session, "tone 500")) == ("tts_b", "")


async def test_what_follows_in_the_utterance_has_the_new_models_voice_too() -> None:
    async with town().serve() as rig:
        rig.manager.loaded.add("tts_b")
        session = (await start(rig, model="b", voice="zoe")).session_id
        rig.voice.script = [None, TritonUnavailable("tts_b: unknown model")]
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        rig.manager.loaded.discard("tts_b")
        call.send("so it goes on for a long while. And then there is more of it. ")
        call.end()
        assert spoken_by(await call.rest()) == ("tts_a", "tts_b")
        assert asked(rig) == [("tts_b", "zoe"), ("tts_b", "zoe"), ("tts_a", ""), ("tts_a", "")]


@pytest.mark.parametrize("how", ["stop", "end"])
async def test_an_utterance_that_waits_for_its_model_ends_at_once(how: str) -> None:
    rig = Rig(voice_model(), voice_model("tts_b", voices=ZOE), resident=1)
    async with rig.serve():
        session = (await start(rig, model="a")).session_id
        rig.manager.gate = asyncio.Event()
        call = rig.open(session, "tone 500", voice="zoe", switch_model=True)
        while not rig.manager.loads:
            await rig.stub.GetCapabilities(pb.GetCapabilitiesRequest())
        if how == "stop":
            assert (await rig.control(session, pb.STOP)).state == pb.TTS_IDLE
        else:
            await rig.stub.EndSession(pb.EndSessionRequest(session_id=session))
        done = (await call.rest()).done
        assert done is not None
        assert (done.outcome, done.model) == (voice_pb2.CANCELLED, "tts_a")
        rig.manager.gate.set()
        if how == "stop":
            assert spoken_by(await rig.say(session, "tone 600")) == ("tts_a", ""), (
                "the switch came to nothing"
            )


async def test_a_model_that_cannot_be_had_any_more_is_said_and_a_switch_goes_on() -> None:
    rig = Rig(voice_model(), voice_model("tts_b", voices=ZOE))
    async with rig.serve():
        session = (await start(rig, model="a")).session_id
        rig.voice.script = [TritonUnavailable("down")] * 2
        assert (await refusal(rig.say(session, "tone 500"))).code() is grpc.StatusCode.UNAVAILABLE
        for wish, switches in (({}, False), ({"model": "b"}, True)):
            rig.manager.loaded.discard("tts_a")
            rig.manager.failure = TritonError("tts_a: broke")
            say = rig.say(session, "tone 500", switch_model=switches, **wish)
            if switches:
                assert spoken_by(await say) == ("tts_b", "")
            else:
                assert (await refusal(say)).code() is grpc.StatusCode.INTERNAL
        rig.manager.failure = None
