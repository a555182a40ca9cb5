"""The official `openai` client and curl, unmodified, against the gateway over real models."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import httpx2
import numpy as np
import openai
import pytest
import soundfile

from gateway.app import Gateway, Speech
from gateway.audio.pcm import Int16
from gateway.settings import Settings
from tests.support.stack import CHECKOUT, Stack, shared_stack

pytestmark = pytest.mark.stack
triton_stack = shared_stack("asr_pocketsphinx", "tts_espeak", scope="module")

RECORDINGS = CHECKOUT.parent / "shared" / "audio"
TEXT = "go forward ten meters"
KEY = "sk-of-a-test"
FORMS = ("mp3", "opus", "aac", "flac", "wav", "pcm")


@dataclass
class Served:
    url: str

    def client(self, **options: Any) -> openai.OpenAI:
        chosen: dict[str, Any] = {"base_url": self.url, "api_key": KEY, "max_retries": 0, "timeout": 30}
        return openai.OpenAI(**chosen | options)

    def aclient(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def served(triton_stack: Stack) -> Iterator[Served]:
    triton = triton_stack.triton.grpc
    sections: dict[str, Any] = {
        "triton": {"uri": triton},
        "models": {"tts": "tts_espeak"},  # it says a text in the same time every time
        "tts": {"uri": triton},
        "listen": dict.fromkeys(("grpc", "riva", "http", "admin", "speech_http"), "127.0.0.1:0"),
        "session": {"drain_s": 0.5},
        "auth": {"api_keys": [KEY]},
        "asr": {"api_key": KEY},
        "openai_audio": {"voices": {"scottish": "en-gb-scotland"}, "max_speech": 2},
    }
    speech = Speech(Settings(**sections))
    triton_stack.run(speech.start())
    sections["asr"] |= {"uri": speech.endpoints()["riva"]}
    gateway = Gateway(Settings(**sections))
    triton_stack.run(gateway.start())
    yield Served(f"{gateway.http}/v1")
    triton_stack.run(gateway.stop())
    triton_stack.run(speech.stop())


@pytest.fixture(scope="module")
def recording(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file that says TEXT: a person where the recording is at hand, else the voice of the stack."""
    person = RECORDINGS / "goforward.wav"
    if person.exists():
        return person
    path = tmp_path_factory.mktemp("speech") / "goforward.wav"
    with served.client() as client:
        spoken = client.audio.speech.create(model="tts-1", voice="default", input=TEXT, response_format="pcm")
    samples = np.frombuffer(spoken.content, "<i2")
    soundfile.write(path, np.pad(samples, (6_000, 12_000)), 24_000)
    return path


def understood(text: str, recording: Path) -> bool:
    """Exactly, for the person; the synthetic voice is understood less well."""
    said = text.strip()
    return said == TEXT if recording.is_relative_to(RECORDINGS) else len(said.split()) >= 2


def decode(data: bytes, form: str) -> tuple[Int16, int]:
    if form == "pcm":
        return np.frombuffer(data, "<i2"), 24_000
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=stream.rate)
        frames = [f for frame in container.decode(stream) for f in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames]), stream.rate


def voiced_dbfs(samples: Int16, rate: int) -> float:
    """RMS of the 20 ms blocks that are not pauses."""
    blocks = samples[: samples.size // (rate // 50) * (rate // 50)].reshape(-1, rate // 50) / 32768.0
    powers = np.mean(blocks**2, axis=1)
    return float(10 * np.log10(np.mean(powers[powers > powers.max() / 100])))


# ---- speech ------------------------------------------------------------------------------------


def test_speech_in_every_format_lasts_as_long_and_is_as_loud(served: Served) -> None:
    found: dict[str, tuple[float, float]] = {}
    with served.client() as client:
        for form in FORMS:
            answer = client.audio.speech.create(
                model="tts-1", voice="alloy", input=f"{TEXT}. And then stop.", response_format=cast(Any, form)
            )
            samples, rate = decode(answer.content, form)
            assert rate == (48_000 if form == "opus" else 24_000)
            found[form] = samples.size / rate, voiced_dbfs(samples, rate)
    seconds, level = found["pcm"]
    assert 1.5 < seconds < 6
    assert -24 < level < -16
    for form, (length, loudness) in found.items():
        assert length == pytest.approx(seconds, abs=0.12), form
        assert loudness == pytest.approx(level, abs=1.5), form


def test_libsndfile_reads_a_wav_of_unknown_length(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "said.wav"
    with served.client() as client:
        answer = client.audio.speech.create(model="tts-1", voice="default", input=TEXT, response_format="wav")
        answer.write_to_file(path)
    samples, rate = soundfile.read(path)
    assert rate == 24_000
    assert 0.8 < len(samples) / rate < 4


def test_streamed_speech_begins_before_it_is_made(served: Served) -> None:
    with (
        served.client() as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="default", input=f"{TEXT}. " * 12, response_format="pcm"
        ) as answer,
    ):
        began = time.monotonic()
        arrived = [(time.monotonic() - began, len(piece)) for piece in answer.iter_bytes()]
    whole_s = sum(count for _, count in arrived) / 48_000
    assert whole_s > 12
    assert len(arrived) > 20
    assert arrived[0][0] < arrived[-1][0] / 2


def test_speed_and_voices(served: Served) -> None:
    def seconds(**options: Any) -> float:
        chosen: dict[str, Any] = {"model": "tts-1", "voice": "default", "input": f"{TEXT}. And then stop."}
        answer = client.audio.speech.create(**chosen | {"response_format": "pcm"} | options)
        return len(answer.content) / 48_000

    with served.client() as client:
        usual = seconds()
        for speed in (0.25, 1.5, 4.0):
            assert seconds(speed=speed) == pytest.approx(usual / speed, rel=0.25), speed
        for voice in ("scottish", "de", {"id": "en-us-female"}):
            assert seconds(model="tts_espeak", voice=voice, instructions="Be calm.") > 1
        with pytest.raises(openai.BadRequestError, match="en-gb-scotland"):
            seconds(voice="nobody")


def test_speech_as_events(served: Served) -> None:
    body = {"model": "gpt-4o-mini-tts", "voice": "nova", "input": TEXT, "response_format": "mp3"}
    head = {"authorization": f"Bearer {KEY}"}
    with httpx2.stream(
        "POST", f"{served.url}/audio/speech", json=body | {"stream_format": "sse"}, headers=head
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    *deltas, done = map(json.loads, lines)
    samples, rate = decode(b"".join(base64.b64decode(delta["audio"]) for delta in deltas), "mp3")
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["output_tokens"] == pytest.approx(samples.size / rate * 20, abs=3)
    assert done["usage"]["total_tokens"] == 4 + done["usage"]["output_tokens"]


# ---- transcription -----------------------------------------------------------------------------


def test_a_recording_in_every_shape(served: Served, recording: Path) -> None:
    with served.client() as client:

        def ask(form: str, **more: Any) -> Any:
            with recording.open("rb") as file:
                return client.audio.transcriptions.create(
                    model="whisper-1", file=file, response_format=cast(Any, form), **more
                )

        plain = ask("json", language="en", temperature=0.0, prompt="meters, forward")
        verbose = ask("verbose_json", timestamp_granularities=["word", "segment"])
        text, srt, vtt = ask("text"), ask("srt"), ask("vtt")
    assert understood(plain.text, recording)
    seconds = soundfile.info(str(recording)).duration
    assert (verbose.text, verbose.language) == (text.strip(), "english")
    assert verbose.duration == pytest.approx(seconds, abs=0.05)
    assert [word.word for word in verbose.words] == verbose.text.split()
    times = [t for word in verbose.words for t in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= seconds
    assert " ".join(segment.text for segment in verbose.segments) == verbose.text
    assert (verbose.segments[0].start, verbose.segments[-1].end) == (times[0], times[-1])
    assert srt.startswith("1\n00:00:00,")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert verbose.segments[0].text in srt
    assert verbose.segments[0].text in vtt


def test_other_files_say_the_same(served: Served, recording: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(recording, dtype="int16")
    with served.client() as client:
        for form, subtype in (("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")):
            path = tmp_path / f"said.{form}"
            soundfile.write(path, samples, rate, subtype=subtype, format=form.upper())
            heard = client.audio.transcriptions.create(model="asr_pocketsphinx", file=path)
            assert understood(heard.text, recording), form


def test_a_streamed_transcription(served: Served, recording: Path) -> None:
    with served.client() as client, recording.open("rb") as file:
        stream = client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
        events: list[Any] = list(stream)
    *deltas, done = events
    assert understood(done.text, recording)
    assert "".join(delta.delta for delta in deltas).strip() == done.text
    assert done.usage.output_tokens == len(done.text.split())


async def test_the_asynchronous_client(served: Served, recording: Path) -> None:
    async with served.aclient() as client:
        data = await asyncio.to_thread(recording.read_bytes)
        listed = [model.id async for model in client.models.list()]
        assert {"tts-1", "whisper-1", "tts_espeak", "asr_pocketsphinx"} <= set(listed)
        assert (await client.models.retrieve("tts_espeak")).id == "tts_espeak"
        heard, streamed = await asyncio.gather(
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", data)),
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", data), stream=True),
        )
        last = [cast(Any, event) async for event in streamed][-1]
        assert last.text == heard.text
        async with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="default", input=TEXT, response_format="opus"
        ) as answer:
            said = b"".join([piece async for piece in answer.iter_bytes()])
        assert decode(said, "opus")[0].size > 48_000


# ---- errors ------------------------------------------------------------------------------------


def test_errors_are_the_clients_own_exceptions(served: Served, recording: Path) -> None:
    with served.client() as client, served.client(api_key="wrong") as stranger:
        say: dict[str, Any] = {"model": "tts-1", "voice": "default", "input": "Hello."}
        with pytest.raises(openai.NotFoundError) as missing:
            client.audio.speech.create(**say | {"model": "tts-3"})
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="whisper-9", file=recording)
        with pytest.raises(openai.NotFoundError):
            client.post("/audio/translations", cast_to=object)
        with pytest.raises(openai.BadRequestError) as wrong:
            client.audio.speech.create(**say | {"speed": 9})
        assert wrong.value.param == "speed"
        with pytest.raises(openai.BadRequestError, match="Invalid file format"):
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"nothing of the kind"))
        with pytest.raises(openai.BadRequestError, match="xx"):
            client.audio.transcriptions.create(model="whisper-1", file=recording, language="xx")
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with pytest.raises(openai.APIStatusError) as large:
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", bytes(27 << 20)))
        assert large.value.status_code == 413


def test_too_many_at_once_get_through_by_the_clients_own_retries(served: Served) -> None:
    def say(client: openai.OpenAI) -> int:
        answer = client.audio.speech.create(
            model="tts-1", voice="default", input=f"{TEXT}. " * 3, response_format="pcm"
        )
        return len(answer.content)

    with served.client() as once, served.client(max_retries=8) as patient, ThreadPoolExecutor(6) as pool:
        tried = [pool.submit(say, once) for _ in range(6)]
        refused = [attempt.exception() for attempt in tried if attempt.exception()]
        assert refused
        assert all(isinstance(error, openai.RateLimitError) for error in refused)
        assert len(set(pool.map(say, [patient] * 4))) == 1


# ---- curl --------------------------------------------------------------------------------------


def test_curl(served: Served, recording: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(path: str, *options: str) -> str:
        done = subprocess.run(
            ["curl", "-sS", f"{served.url}{path}", "-H", f"Authorization: Bearer {KEY}", *options],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = tmp_path / "said.mp3"
    body = json.dumps({"model": "tts-1", "voice": "default", "input": TEXT})
    curl("/audio/speech", "-H", "Content-Type: application/json", "-d", body, "-o", str(said))
    assert decode(said.read_bytes(), "mp3")[1] == 24_000
    form = ("-F", f"file=@{recording}", "-F", "model=whisper-1")
    assert understood(json.loads(curl("/audio/transcriptions", *form))["text"], recording)
    words = ("-F", "response_format=verbose_json", "-F", "timestamp_granularities[]=word")
    assert json.loads(curl("/audio/transcriptions", *form, *words))["words"]
    events = curl("/audio/transcriptions", "-N", *form, "-F", "stream=true").split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["type"] == "transcript.text.done"
    assert json.loads(curl("/models"))["object"] == "list"
    large = tmp_path / "large.wav"
    large.write_bytes(bytes(27 << 20))
    refused = curl("/audio/transcriptions", "-F", f"file=@{large}", "-F", "model=whisper-1")
    assert json.loads(refused)["error"]["message"].startswith("Maximum content size limit (26214400)")
