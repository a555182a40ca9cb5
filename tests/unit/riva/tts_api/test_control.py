"""PAUSE, RESUME, STOP and RELOAD: of one utterance of one session, and of nothing else."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from tests.support.tones import pitch_of
from tests.unit.riva.tts_api.parts import HELD, Rig, refusal

LONG = "Now comes tone 500 for you. " * 20


def pitches(frames: list[bytes]) -> set[int]:
    return {round(pitch_of(frame, 48_000) / 50) * 50 for frame in frames[1:-1]}


def test_the_zero_value_of_every_enum_is_unspecified() -> None:
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")


async def test_an_unset_command_is_refused() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, "tone 500", end=False)
        for command in (pb.TTS_COMMAND_UNSPECIFIED, 99):
            error = await refusal(rig.control(session, command))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "PAUSE, RESUME, STOP or RELOAD" in str(error.details())
        call.end()
        assert (await call.rest()).done is not None


@pytest.mark.parametrize("command", [pb.PAUSE, pb.RESUME, pb.STOP])
async def test_control_while_nothing_is_spoken_does_nothing(command: pb.TtsCommand.ValueType) -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        for _ in range(2):
            answer = await rig.control(session, command)
            assert (answer.state, answer.applied) == (pb.TTS_IDLE, False)
            assert "nothing is being spoken" in answer.note
            heard = await rig.say(session, "tone 500 is heard")
            assert heard.done is not None
            assert heard.done.outcome == voice_pb2.COMPLETED


async def test_no_frame_leaves_while_paused_and_none_is_lost() -> None:
    async with Rig().serve() as rig:
        session = await rig.start(fast=False)
        call = rig.open(session, "tone 500 " + "and on " * 8)
        await call.frames(12)
        answer = await rig.control(session, pb.PAUSE)
        paused = time.monotonic()
        assert (answer.state, answer.applied) == (pb.TTS_PAUSED, True)
        last = 0.0
        reading = asyncio.ensure_future(call.read())
        while not (await asyncio.wait({reading}, timeout=0.15))[1]:
            last = time.monotonic() - paused
            reading = asyncio.ensure_future(call.read())
        assert last <= 0.05, "the last frame came within 50 ms"
        assert (await rig.control(session, pb.PAUSE)).note == "it is paused already"
        seen = (await rig.control(session, pb.RESUME)).frames
        await reading
        heard = await call.rest()
        sequence = [m.frame.sequence for m in heard.messages if m.HasField("frame")]
        assert sequence == list(range(len(sequence)))
        assert seen < len(sequence)
        assert pitches(heard.frames) == {500}
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.COMPLETED


async def test_stop_ends_the_utterance_in_good_order_and_tells_the_model() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        answer = await rig.control(session, pb.STOP)
        assert (answer.state, answer.applied, answer.utterance) == (pb.TTS_IDLE, True, 1)
        heard = await call.rest()
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.CANCELLED
        assert heard.done.frames == len(heard.frames)
        await rig.voice.notice.until(lambda: rig.voice.cancelled == 1)


async def test_stop_is_not_sticky() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, LONG)
        await call.frames(1)
        await rig.control(session, pb.STOP)
        heard = await rig.say(session, "tone 900 is next")
        assert pitches(heard.frames) == {900}
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.COMPLETED
        assert {m.utterance for m in heard.messages} == {2}
        assert pitches((await call.rest()).frames) == {500}


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_pause_is_not_sticky(how: str) -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, LONG)
        await call.frames(1)
        await rig.control(session, pb.PAUSE)
        if how == "stop":
            await rig.control(session, pb.STOP)
        else:
            call.rpc.cancel()
        assert (await rig.say(session, "tone 900 is next")).done is not None


async def test_stop_of_a_does_not_silence_b() -> None:
    async with Rig().serve() as rig:
        a, b = await rig.start("a"), await rig.start("b")
        first, second = rig.open(a, LONG), rig.open(b, LONG.replace("500", "700"))
        await first.frames(1)
        await second.frames(1)
        await rig.control(a, pb.STOP)
        heard = await second.rest()
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.COMPLETED
        assert pitches(heard.frames) == {700}


async def test_pause_of_a_does_not_stall_b() -> None:
    async with Rig().serve() as rig:
        a, b = await rig.start("a"), await rig.start("b")
        first = rig.open(a, LONG)
        await first.frames(1)
        await rig.control(a, pb.PAUSE)
        heard = await rig.say(b, "tone 700 goes by")
        assert pitches(heard.frames) == {700}
        assert (await rig.control(a, pb.RESUME)).state == pb.TTS_SPEAKING
        assert pitches((await first.rest()).frames) == {500}


async def test_while_paused_the_model_works_ahead_up_to_the_bound() -> None:
    async with Rig(hot_s=2.0).serve() as rig:
        session = await rig.start()
        call = rig.open(session, end=False)
        await asyncio.sleep(0)
        while not (await rig.control(session, pb.PAUSE)).applied:
            pass
        call.send(LONG)
        call.end()
        await rig.voice.notice.until(lambda: rig.voice.made * 2 >= 100)
        for _ in range(20):
            await rig.control(session, pb.PAUSE)
        assert rig.voice.made * 2 <= 100 + 4, "two seconds of frames, and the rest of a chunk"
        await rig.control(session, pb.RESUME)
        heard = await call.rest()
        assert len(heard.frames) == rig.voice.made * 2


async def test_reload_rolls_the_models_newest_version_in() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        other = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, HELD, end=False)
        await call.frames(1)
        answer = await rig.control(session, pb.RELOAD)
        assert (answer.applied, answer.version, answer.state) == (True, "2", pb.TTS_SPEAKING)
        rig.voice.hold.set()
        call.send("And tone 500 more. ")
        call.end()
        heard = await call.rest()
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.COMPLETED, "what is being spoken goes on"
        assert [version for _, version, _ in rig.voice.asked] == ["1", "2"]
        assert rig.manager.leases["tts_a"] == 2
        assert (await rig.control(other, pb.STOP)).version == "2", "each request begins on the newest"
