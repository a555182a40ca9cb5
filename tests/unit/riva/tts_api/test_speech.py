"""Text in, frames out: when the first leaves, what the last is like, and what happens when a part fails."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import voice_pb2
from gateway.triton.errors import ModelFull, TritonError, TritonTimeout, TritonUnavailable
from tests.support.tones import pitch_of
from tests.unit.riva.tts_api.parts import Rig, refusal, voice_model

CODE = grpc.StatusCode


def loud(frames: list[bytes]) -> list[int]:
    """Pitch of each frame that has one, to the nearest 10 Hz."""
    return [round(p / 10) * 10 for f in frames if (p := pitch_of(f, 48_000))]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
async def test_every_frame_has_1920_bytes(rate: int) -> None:
    async with Rig(voice_model(sample_rate=rate)).serve() as rig:
        session = await rig.start()
        heard = await rig.say(session, "tone 700 once")
        assert {len(frame) for frame in heard.frames} == {1_920}
        assert [m.frame.sequence for m in heard.messages[:-1]] == list(range(len(heard.frames)))
        assert {(m.session_id, m.utterance) for m in heard.messages} == {(session, 1)}
        assert heard.done is not None
        assert heard.messages[-1].HasField("done")
        assert heard.done.frames == len(heard.frames)
        assert len(heard.frames) == rig.voice.made * 40 / 20
        assert any(heard.frames[-1]), "no frame is empty"


async def test_the_last_frame_ends_in_silence() -> None:
    async with Rig(voice_model(sample_rate=8_000)).serve() as rig:
        rig.voice.chunk_ms = 50
        heard = await rig.say(await rig.start(), "tone 700, xx")
        assert len(heard.frames) == 15
        whole, last = heard.frames[13], np.frombuffer(heard.frames[-1], "<i2")
        assert any(whole[-200:])
        assert len(last) == 960
        rig.voice.chunk_ms = 45
        heard = await rig.say(await rig.start(), "tone 700, xx")
        last = np.frombuffer(heard.frames[-1], "<i2")
        assert len(heard.frames) == 14
        assert np.abs(last[:470]).max() > 1_000
        assert not last[480:].any(), "270 ms are thirteen frames and a half"


async def test_the_first_frame_leaves_before_the_text_and_its_synthesis_are_over() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        call = rig.open(session, "Well, tone 500 it is. And ", end=False)
        assert len(await call.frames(1)) == 1
        assert rig.voice.finished == 0
        rig.voice.hold.set()
        call.send("tone 900 later.")
        call.end()
        heard = await call.rest()
        assert list(dict.fromkeys(loud(heard.frames[:-1]))) == [500, 900]
        assert heard.done is not None
        assert 0 <= heard.done.first_audio_ms < 1_000


async def test_text_goes_on_arriving_while_it_is_spoken() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.hold = asyncio.Event()
        said = (
            "Here is tone 500 at first. Then there is tone 600 here. Last of all comes tone 700, and no stop"
        )
        call = rig.open(session, *(said[at : at + 3] for at in range(0, len(said), 3)))
        await call.frames(1)
        rig.voice.hold.set()
        heard = await call.rest()
        assert [told["TEXT"] for _, _, told in rig.voice.asked] == [
            "Here is tone 500 at first.",
            "Then there is tone 600 here.",
            "Last of all comes tone 700, and no stop",
        ]
        assert list(dict.fromkeys(loud(heard.frames[:-1]))) == [500, 600, 700]
        assert heard.done is not None
        assert heard.done.text == said


async def test_flush_speaks_what_is_there() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, "tone 500 without an end", end=False)
        call.send(flush=True)
        await call.frames(10)
        call.end()
        assert (await call.rest()).done is not None


async def test_a_first_sentence_is_spoken_although_nothing_follows_it() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, "Hello, this is tone five hundred.", end=False)
        await call.frames(10)
        call.end()
        assert (await call.rest()).done is not None


async def test_32_streams_at_once_never_cross() -> None:
    async with Rig().serve() as rig:
        tones = [400 + 60 * n for n in range(32)]
        sessions = await asyncio.gather(*(rig.start(f"s{tone}") for tone in tones))
        texts = [f"Now tone {tone} is what you hear. Again tone {tone}, and then no more" for tone in tones]
        heard = await asyncio.gather(
            *(rig.say(s, text[:20], text[20:]) for s, text in zip(sessions, texts, strict=True))
        )
        for tone, session, one in zip(tones, sessions, heard, strict=True):
            assert {message.session_id for message in one.messages} == {session}
            assert all(abs(pitch - tone) <= 20 for pitch in loud(one.frames[1:-1]))
            assert one.done is not None
            assert {len(frame) for frame in one.frames} == {1_920}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TritonTimeout("tts_a: silent"), CODE.DEADLINE_EXCEEDED),
        (TritonError("tts_a: broke"), CODE.INTERNAL),
        (ModelFull("tts_a: too many texts; try again"), CODE.RESOURCE_EXHAUSTED),
        (RuntimeError("secret"), CODE.INTERNAL),
    ],
)
async def test_a_failure_is_a_status_and_never_an_empty_frame(
    failure: Exception, code: grpc.StatusCode
) -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.script = [failure]
        call = rig.open(session, "tone 500")
        error = await refusal(call.rest())
        assert error.code() is code
        assert "secret" not in str(error.details())
        assert call.heard.messages == []
        assert (await rig.say(session, "tone 500")).done is not None, "the session lives"


async def test_what_was_made_before_a_failure_is_heard() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.voice.fail_after = 3
        call = rig.open(session, "tone 500 breaks off here")
        error = await refusal(call.rest())
        assert error.code() is CODE.INTERNAL
        assert len(call.heard.frames) in (6, 7)
        assert call.heard.done is None
        assert all(any(frame) for frame in call.heard.frames)


@pytest.mark.parametrize("texts", [(), ("",), ("... ", "!"), (" \n",)])
async def test_nothing_to_say_is_refused(texts: tuple[str, ...]) -> None:
    async with Rig().serve() as rig:
        error = await refusal(rig.say(await rig.start(), *texts))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert "nothing to say" in str(error.details())


async def test_messages_that_make_no_sense_are_refused() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        await rig.start("b")
        for bad, says in (
            ({"session_id": "b"}, "names another session"),
            ({"utterance": pb.Utterance(voice="bob")}, "first message"),
            ({"text": "x" * 20_001}, "20001 characters"),
        ):
            call = rig.open(session, "tone 500, ", end=False)
            call.send(**bad)
            call.end()
            error = await refusal(call.rest())
            assert error.code() is CODE.INVALID_ARGUMENT
            assert says in str(error.details())


async def test_a_model_that_went_away_is_loaded_again_once() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        rig.manager.loaded.clear()
        rig.voice.script = [TritonUnavailable("tts_a: unknown model")]
        assert (await rig.say(session, "tone 500")).done is not None
        assert rig.manager.loads == ["tts_a"]
        assert rig.manager.leases["tts_a"] == 1
        rig.voice.script = [TritonUnavailable("down")] * 2
        error = await refusal(rig.say(session, "tone 500"))
        assert error.code() is CODE.UNAVAILABLE


async def test_a_client_that_does_not_read_holds_the_model_back() -> None:
    async with Rig(hot_s=1.0).serve() as rig:
        session, other = await rig.start(), await rig.start()
        sentence = "Now tone 500 " + "goes on and on " * 12 + ". "
        call = rig.open(session, *[sentence] * 60)
        await call.frames(1)
        before = -1
        while before != rig.voice.made_of[500]:
            before = rig.voice.made_of[500]
            assert (await rig.say(other, "tone 700 is heard meanwhile")).done is not None
        total = sum(len(sentence) // 2 for _ in range(60))
        assert rig.voice.made_of[500] < total / 2, "what nobody takes is not made"
        await rig.control(session, pb.STOP)
        heard = await call.rest()
        assert heard.done is not None
        assert heard.done.outcome == voice_pb2.CANCELLED


async def test_a_service_that_stops_says_so() -> None:
    async with Rig().serve() as rig:
        session = await rig.start()
        call = rig.open(session, "tone 500, ", end=False)
        await rig.voice.notice.until(lambda: True)
        while not (await rig.control(session, pb.PAUSE)).applied:
            pass
        await rig.service.close()
        error = await refusal(call.rest())
        assert error.code() is CODE.UNAVAILABLE
