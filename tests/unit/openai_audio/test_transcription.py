"""POST /v1/audio/transcriptions, over a fake recogniser, through the official client."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any, cast

import av
import openai
import pytest
import soundfile

from gateway.audio.encoders import make_encoder
from gateway.listen.asr import AsrError
from gateway.listen.transcriber import Wanted
from tests.unit.openai_audio.parts import http, scene, tone, wav

TEXT = "word0 again word1 again word2 again"


def encoded(form: str, seconds: float = 3.2, rate: int = 48_000) -> bytes:
    encoder = make_encoder(form, rate)
    return encoder.encode(tone(seconds, rate)) + encoder.close()


def muxed(container: str, codec: str, *, video: bool = False) -> bytes:
    """A file that needs a seekable output."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        picture: Any = None
        if video:
            picture = out.add_stream("mpeg4", rate=5)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        stream: Any = out.add_stream(cast(Any, codec), rate=48_000)
        stream.layout = "stereo"
        if picture is not None:
            for _ in range(16):
                out.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            out.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(3.2, 48_000).repeat(2).reshape(1, -1), "s16", "stereo")
        frame.sample_rate = 48_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


FILES = {
    "a.wav": lambda: wav(3.2),
    "stereo.wav": lambda: wav(3.2, 44_100, 2),
    "a.flac": lambda: encoded("flac"),
    "a.mp3": lambda: encoded("mp3"),
    "a.ogg": lambda: encoded("opus"),
    "a.aac": lambda: encoded("aac"),
    "endless.wav": lambda: encoded("wav"),
    "a.m4a": lambda: muxed("mp4", "aac"),
    "film.mp4": lambda: muxed("mp4", "aac", video=True),
    "a.webm": lambda: muxed("webm", "libopus"),
    "no extension": lambda: encoded("mp3"),
}


@pytest.mark.parametrize("name", FILES)
async def test_any_common_file_is_heard_whole(name: str) -> None:
    async with scene() as s:
        data = FILES[name]()
        heard = await s.client().audio.transcriptions.create(model="whisper-1", file=(name, data))
    assert heard.text == TEXT
    assert s.asr.heard_s[0] == pytest.approx(3.2, abs=0.08)
    assert cast(Any, heard.usage).type == "duration"
    assert cast(Any, heard.usage).seconds == 4


async def test_what_is_asked_for_reaches_the_recogniser() -> None:
    async with scene() as s:
        client = s.client().audio.transcriptions
        await client.create(
            model="asr_fake",
            file=("a.wav", wav(0.5)),
            language="en",
            prompt="ZyntriQix, Digique Plus. Tell me",
            temperature=0.2,
            chunking_strategy={"type": "server_vad", "silence_duration_ms": 300},
            extra_body={"keywords[]": "Parley"},
        )
        await client.create(model="asr_german", file=("a.wav", wav(0.5)))
        await client.create(model="whisper-1", file=("a.wav", wav(0.5)), chunking_strategy="auto")
    assert s.asr.wanted == [
        Wanted("en", "asr_fake", ("Parley", "ZyntriQix", "Digique Plus", "Tell me"), False, 300),
        Wanted("de-DE", "asr_german"),
        Wanted("en-US"),
    ]


async def test_verbose_json_has_words_and_segments_as_asked() -> None:
    async with scene() as s:

        async def ask(*granularities: Any) -> Any:
            more: dict[str, Any] = {"timestamp_granularities": list(granularities)} if granularities else {}
            return await s.client().audio.transcriptions.create(
                model="whisper-1",
                file=("a.wav", wav(2.5)),
                response_format="verbose_json",
                temperature=0.5,
                **more,
            )

        both, words, usual = await ask("word", "segment"), await ask("word"), await ask()
    assert both.text == "word0 again word1 again"
    assert (both.language, both.duration, both.task) == ("english", 2.5, "transcribe")
    assert [(w.word, w.start, w.end) for w in both.words] == [
        ("word0", 0.1, 0.4),
        ("again", 0.5, 0.9),
        ("word1", 1.1, 1.4),
        ("again", 1.5, 1.9),
    ]
    assert [(g.id, g.start, g.end, g.text, g.temperature) for g in both.segments] == [
        (0, 0.1, 0.9, "word0 again", 0.5),
        (1, 1.1, 1.9, "word1 again", 0.5),
    ]
    assert both.segments[0].avg_logprob == pytest.approx(-0.693, abs=0.001)
    assert words.words
    assert words.segments is None
    assert usual.words is None
    assert len(usual.segments) == 2


async def test_subtitles_and_text() -> None:
    async with scene() as s:
        made: dict[str, Any] = {}
        for form in ("text", "srt", "vtt"):
            made[form] = await s.client().audio.transcriptions.create(
                model="whisper-1", file=("a.wav", wav(2.5)), response_format=cast(Any, form)
            )
    assert made["text"] == "word0 again word1 again\n"
    assert made["srt"] == (
        "1\n00:00:00,100 --> 00:00:00,900\nword0 again\n\n2\n00:00:01,100 --> 00:00:01,900\nword1 again\n"
    )
    assert made["vtt"] == (
        "WEBVTT\n\n00:00:00.100 --> 00:00:00.900\nword0 again\n\n00:00:01.100 --> 00:00:01.900\nword1 again\n"
    )


async def test_a_stream_tells_only_what_stays() -> None:
    async with scene() as s:
        stream = await s.client().audio.transcriptions.create(
            model="whisper-1", file=("a.wav", wav(3.2)), stream=True
        )
        events = [event async for event in stream]
    *deltas, done = cast(list[Any], events)
    assert [event.delta for event in deltas] == ["word0", " again", " word1", " again", " word2", " again"]
    assert (done.type, done.text) == ("transcript.text.done", TEXT)
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (32, 6, 38)
    assert s.asr.wanted[0].partials


GOOD: dict[str, Any] = {"model": "whisper-1"}
WRONG: list[tuple[dict[str, Any], bytes, str | None, str]] = [
    ({"response_format": "diarized_json"}, b"", "response_format", "json, text"),
    ({"timestamp_granularities[]": "word"}, b"", "timestamp_granularities", "verbose_json"),
    (
        {"timestamp_granularities[]": "sentence", "response_format": "verbose_json"},
        b"",
        "timestamp_granularities",
        "'word' and",
    ),
    ({"include[]": "logprobs"}, b"", "include", "log prob"),
    ({"temperature": "2"}, b"", "temperature", "0 to 1"),
    ({"temperature": "nan"}, b"", "temperature", "0 to 1"),
    ({"language": "Klingon, please"}, b"", "language", "ISO-639-1"),
    ({"stream": "maybe"}, b"", "stream", "true or false"),
    ({"stream": "true", "response_format": "srt"}, b"", "response_format", "streamed"),
    ({"chunking_strategy": "often"}, b"", "chunking_strategy", "auto"),
    ({"chunking_strategy": "[" * 100_000}, b"", "chunking_strategy", "auto"),
    (
        {"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": Infinity}'},
        b"",
        "chunking_strategy",
        "auto",
    ),
    ({"model": ""}, b"", "model", "model parameter"),
    ({"model": "tts-1"}, b"", "model", "whisper-1"),
    ({}, b"no sound at all, just some text", "file", "Invalid file format"),
    (
        {},
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n",
        "file",
        "Invalid file format",
    ),
    ({}, b"ffconcat version 1.0\nfile /etc/passwd\n", "file", "Invalid file format"),
    ({}, wav(0.05), "file", "too short"),
    ({}, wav(0.0), "file", "too short"),
]


async def test_what_is_wrong_is_said() -> None:
    async with scene() as s, http(s) as client:
        for fields, file, param, says in WRONG:
            answer = await client.post(
                "/audio/transcriptions", data=GOOD | fields, files={"file": ("a.wav", file or wav(1.0))}
            )
            error = answer.json()["error"]
            assert answer.status_code == 400, (fields, error)
            assert (error["type"], error["param"]) == ("invalid_request_error", param)
            assert says in error["message"]
            assert "/etc" not in error["message"]
    assert not s.asr.heard_s


async def test_bad_forms() -> None:
    async with scene() as s, http(s) as client:
        path = "/audio/transcriptions"
        no_file = await client.post(path, data=GOOD, files={"other": ("a.wav", wav(1.0))})
        text_file = await client.post(path, files={"model": (None, "whisper-1"), "file": (None, "text")})
        two = await client.post(path, data=GOOD, files=[("file", wav(1.0)), ("file", wav(1.0))])
        head = {"content-type": "multipart/form-data; boundary=x"}
        cut = await client.post(path, content=b"--x\r\nContent-Disposition: form-data; na", headers=head)
        noise = await client.post(path, content=b"\x00\xff" * 500, headers=head)
        no_boundary = await client.post(path, content=b"x", headers={"content-type": "multipart/form-data"})
        as_json = await client.post(path, json=GOOD)
        nothing = await client.post(path)
    for answer in (no_file, text_file, two, cut, noise, no_boundary):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (no_file.json()["error"]["param"], text_file.json()["error"]["param"]) == ("file", "file")
    assert as_json.status_code == nothing.status_code == 415
    assert "multipart/form-data" in as_json.json()["error"]["message"]


async def test_too_large_and_too_long() -> None:
    async with scene(max_upload_mb=1.0, max_audio_s=2.0) as s, http(s) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", bytes(3 << 20)))
        assert caught.value.status_code == 413
        assert "1048576" in caught.value.message

        async def body() -> Any:  # of no declared length
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            for _ in range(40):
                yield bytes(1 << 16)

        head = {"content-type": "multipart/form-data; boundary=x"}
        assert (await client.post("/audio/transcriptions", content=body(), headers=head)).status_code == 413
        with pytest.raises(openai.BadRequestError, match="longer than 2 seconds"):
            await s.client().audio.transcriptions.create(
                model="whisper-1", file=("a.flac", encoded("flac", 60))
            )
        assert s.asr.heard_s == [pytest.approx(0, abs=0.1)]


async def test_a_recogniser_that_fails() -> None:
    async with scene() as s, http(s) as client:
        s.asr.passages, s.asr.error = 0, AsrError("no speech recogniser answers at x: start it")
        with pytest.raises(openai.InternalServerError, match="No speech recogniser answers"):
            await s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(3.2)))
        s.asr.error = AsrError("no language xx", retryable=False)
        with pytest.raises(openai.BadRequestError, match="No language xx"):
            await s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(3.2)))
        s.asr.passages, s.asr.error = 1, AsrError("it broke")
        answer = await client.post(
            "/audio/transcriptions", data=GOOD | {"stream": "true"}, files={"file": wav(3.2)}
        )
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
        assert events[0] == {"type": "transcript.text.delta", "delta": "word0"}
        assert events[-1]["error"]["message"] == "It broke."


async def test_a_client_that_hangs_up_frees_the_recogniser() -> None:
    async with scene() as s:
        s.asr.wait = asyncio.Event()
        asking = asyncio.create_task(
            s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(3.2)))
        )
        await s.asr.begun.wait()
        asking.cancel()
        async with asyncio.timeout(2):
            await s.app.drain(2)
        assert s.asr.released == 1


async def test_too_many_at_once_and_too_slow() -> None:
    async with scene(max_transcriptions=1, request_s=0.5) as s:
        s.asr.wait = asyncio.Event()
        first = asyncio.create_task(
            s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(3.2)))
        )
        await s.asr.begun.wait()
        with pytest.raises(openai.RateLimitError):
            await s.client().audio.transcriptions.create(model="whisper-1", file=("a.wav", wav(30.0)))
        with pytest.raises(openai.APIStatusError, match=r"longer than 0\.5 seconds") as caught:
            await first
        assert caught.value.status_code == 504


async def test_an_upload_that_stops_coming_is_given_up() -> None:
    async with scene(stall_s=0.2) as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
        writer.write(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
            b"content-type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()


def test_the_made_files_are_what_they_are_called() -> None:
    """Else the test of files would pass with any."""
    assert soundfile.info(io.BytesIO(FILES["a.mp3"]())).format in ("MP3", "MPEG")
    with av.open(io.BytesIO(FILES["a.webm"]())) as container:
        assert "webm" in container.format.name
    with av.open(io.BytesIO(FILES["film.mp4"]())) as container:
        assert container.streams.video
