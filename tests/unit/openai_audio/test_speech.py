"""POST /v1/audio/speech, over fakes, through the official client."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, cast

import numpy as np
import openai
import pytest

from gateway.audio.encoders import MEDIA_TYPES
from gateway.speak.tts import TtsError
from tests.unit.openai_audio.parts import decode, http, level_dbfs, scene

TEXT = "The first sentence is here. And there is a second one, which is longer."
SECONDS = (len(TEXT) - 1) * 0.06
"""Of the fake voice; the space between the sentences is not spoken."""


@pytest.mark.parametrize("form", MEDIA_TYPES)
async def test_every_format_holds_the_speech_at_24_khz_at_the_session_s_level(form: Any) -> None:
    async with scene() as s:
        answer = await s.client().audio.speech.create(
            model="tts-1", voice="default", input=TEXT, response_format=form
        )
    data = answer.content
    assert answer.response.headers["content-type"] == MEDIA_TYPES[form]
    assert answer.response.headers["transfer-encoding"] == "chunked"
    samples, rate = (np.frombuffer(data, "<i2"), 24_000) if form == "pcm" else decode(data)
    assert rate == (48_000 if form == "opus" else 24_000)
    assert samples.size / rate == pytest.approx(SECONDS, abs=0.15)
    assert level_dbfs(samples) == pytest.approx(-20, abs=1.5)
    assert [text.strip() for text in s.tts.sentences] == [
        "The first sentence is here.",
        "And there is a second one, which is longer.",
    ]


async def test_audio_comes_before_it_is_all_made() -> None:
    async with scene() as s:
        s.tts.chunk_s = 0.02
        async with s.client().audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=TEXT, response_format="pcm"
        ) as answer:
            pieces = answer.iter_bytes()
            first = await anext(pieces)
            made = s.tts.chunks
            rest = [piece async for piece in pieces]
    assert made * 100 < SECONDS * 500, "more than half was made before the first byte came"
    assert sum(map(len, [first, *rest])) / 48_000 == pytest.approx(SECONDS, abs=0.05)


async def test_events_hold_the_same_audio_and_say_how_much() -> None:
    async with scene() as s, http(s) as client:
        body = {"model": "tts-1", "voice": "default", "input": TEXT, "response_format": "pcm"}
        plain = (await client.post("/audio/speech", json=body)).content
        answer = await client.post("/audio/speech", json=body | {"stream_format": "sse"})
    assert answer.headers["content-type"] == "text/event-stream"
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert {e["type"] for e in events[:-1]} == {"speech.audio.delta"}
    told = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
    assert len(told) == len(plain)  # each sentence of the fake has its own pitch
    seconds = len(plain) / 48_000
    words = len(TEXT.split())
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {
            "input_tokens": words,
            "output_tokens": int(np.ceil(seconds * 20)),
            "total_tokens": words + int(np.ceil(seconds * 20)),
        },
    }


@pytest.mark.parametrize(
    ("speed", "speeds", "own"), [(2.0, (0.5, 2.0), 2.0), (4.0, (0.5, 2.0), 2.0), (0.25, (1.0, 1.0), 1.0)]
)
async def test_what_the_model_cannot_do_of_a_speed_is_done_here(
    speed: float, speeds: tuple[float, float], own: float
) -> None:
    async with scene() as s:
        s.tts.speeds = speeds
        answer = await s.client().audio.speech.create(
            model="tts_fake", voice="bob", input=TEXT, response_format="pcm", speed=speed
        )
    assert s.tts.asked == [("bob", "", own, "tts_fake")] * 2
    assert len(answer.content) / 48_000 == pytest.approx(SECONDS / speed, abs=0.15)


@pytest.mark.parametrize(
    ("given", "voice"),
    [
        ("default", ""),
        ("nova", ""),
        ("ann", "ann"),
        ({"id": "bob"}, "bob"),
        ("boss", "bob"),
        ("alloy", "ann"),
    ],
)
async def test_names_of_voices(given: Any, voice: str) -> None:
    async with scene(voices={"boss": "bob", "alloy": "ann"}) as s:
        await s.client().audio.speech.create(
            model="tts-1-hd", voice=given, input="Hello.", instructions="Be cheerful.", response_format="pcm"
        )
    assert s.tts.asked == [(voice, "", 1.0, "")]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"voice": "nobody"}, "voice", "default, ann, bob"),
    ({"voice": ""}, "voice", "voice"),
    ({"input": ""}, "input", "Missing"),
    ({"input": " …! "}, "input", "nothing to say"),
    ({"input": "a" * 4097}, "input", "4097 characters"),
    ({"input": 5}, "input", "string"),
    ({"response_format": "mid"}, "response_format", "'mp3'"),
    ({"stream_format": "ws"}, "stream_format", "'sse'"),
    ({"speed": 4.5}, "speed", "0.25 to 4"),
    ({"speed": 0}, "speed", "0.25 to 4"),
    ({"speed": 10**400}, "speed", "0.25 to 4"),
    ({"speed": "fast"}, "speed", "number"),
    ({"model": "whisper-1"}, "model", "tts-1"),
    ({"model": "asr_fake"}, "model", "tts-1"),
]


async def test_what_is_wrong_is_said() -> None:
    async with scene() as s:
        client = s.client()
        for changed, param, says in WRONG:
            body: dict[str, Any] = {"model": "tts-1", "voice": "default", "input": "Hello."} | changed
            with pytest.raises(openai.BadRequestError, match=says) as caught:
                await client.audio.speech.create(**body)
            error = cast(dict[str, Any], caught.value.body)
            assert (error["type"], error["param"]) == ("invalid_request_error", param), changed
    assert not s.tts.sentences


async def test_an_unknown_model_is_openai_s_404() -> None:
    async with scene() as s:
        with pytest.raises(openai.NotFoundError) as caught:
            await s.client().audio.speech.create(model="tts-9", voice="default", input="Hello.")
    assert cast(dict[str, Any], caught.value.body) == {
        "message": "The model `tts-9` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_a_voice_that_fails_at_once_is_a_503_and_later_cuts_the_answer_short() -> None:
    async with scene() as s, http(s) as client:
        body = {"model": "tts-1", "voice": "default", "input": "Hello there.", "response_format": "pcm"}
        s.tts.fail = {"Hello there.": 0}
        answer = await client.post("/audio/speech", json=body)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["error"]["message"] == "The voice broke."
        s.tts.fail = {"Hello there.": 2}
        with pytest.raises(Exception, match="incomplete chunked read"):
            await client.post("/audio/speech", json=body)
        answer = await client.post("/audio/speech", json=body | {"stream_format": "sse"})
    *deltas, last = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert len(deltas) >= 1
    assert last["error"]["message"] == "The voice broke."


async def test_a_refusal_of_the_voice_is_the_client_s_and_being_left_alone_is_not() -> None:
    async with scene() as s:
        for error, kind, says in (
            (TtsError("no voice for language xx", unwell=False), openai.BadRequestError, "No voice"),
            (TtsError("tts_fake made no audio", unwell=False), openai.BadRequestError, "tts_fake made"),
            (
                TtsError("it is left alone for 2 s", unwell=False, later=True),
                openai.InternalServerError,
                "It",
            ),
        ):
            s.tts.synthesize = _fails(error)  # type: ignore[method-assign]
            with pytest.raises(kind, match=says):
                await s.client().audio.speech.create(model="tts-1", voice="default", input="Hello.")


async def test_a_client_that_hangs_up_frees_the_voice() -> None:
    async with scene() as s:
        s.tts.chunk_s = 0.05
        async with s.client().audio.speech.with_streaming_response.create(
            model="tts-1", voice="default", input=TEXT * 20, response_format="pcm"
        ) as answer:
            await anext(answer.iter_bytes())
        async with asyncio.timeout(2):
            await s.app.drain(2)
        assert s.tts.released == s.tts.streams == 1


async def test_too_many_at_once_are_told_to_come_again() -> None:
    async with scene(max_speech=1) as s:
        s.tts.chunk_s = 0.05
        async with s.client().audio.speech.with_streaming_response.create(
            model="tts-1", voice="default", input=TEXT * 20, response_format="pcm"
        ):
            with pytest.raises(openai.RateLimitError, match="1 speech requests at a time") as caught:
                await s.client().audio.speech.create(model="tts-1", voice="default", input="Hello.")
        assert caught.value.response.headers["retry-after"] == "1"


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    async with scene(stall_s=0.2) as s:
        s.tts.ms_per_char = 20_000
        reader, writer = await asyncio.open_connection("127.0.0.1", s.port, limit=1024)
        body = json.dumps({"model": "tts-1", "voice": "default", "input": TEXT, "response_format": "wav"})
        head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body.encode())
        await reader.readexactly(100)
        async with asyncio.timeout(5):
            await s.app.drain(5)
        assert s.tts.released == 1
        assert s.tts.chunks < 4_000, "synthesis did not wait for the client"
        writer.close()


def _fails(error: TtsError) -> Any:
    async def synthesize(_: str, **__: Any) -> Any:
        raise error
        yield

    return synthesize
