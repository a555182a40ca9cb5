"""The official `nvidia-riva-client`, unmodified, against the running speech service and real models."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import riva.client
import soundfile
from riva.client.asr import sleep_audio_length
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.riva.server import SpeechServer
from gateway.settings import ModelsSettings, TritonSettings
from tests.support.stack import CHECKOUT, Stack, shared_stack

pytestmark = pytest.mark.stack
triton_stack = shared_stack("asr_pocketsphinx", "tts_espeak", scope="module")

SPEECH = CHECKOUT.parent / "shared" / "audio"
TEXT = "go forward ten meters"
CHUNK = 1_600


@dataclass
class Service:
    server: SpeechServer
    address: str

    def __post_init__(self) -> None:
        auth = riva.client.Auth(uri=self.address)
        self.asr = riva.client.ASRService(auth)
        self.tts = riva.client.SpeechSynthesisService(auth)


@pytest.fixture(scope="module")
def service(triton_stack: Stack) -> Iterator[Service]:
    server = SpeechServer(TritonSettings(uri=triton_stack.triton.grpc), ModelsSettings(), "127.0.0.1:0")
    running = Service(server, triton_stack.run(server.start()))
    yield running
    triton_stack.run(server.stop(1.0))


@pytest.fixture(scope="module")
def speech(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file that says TEXT: a person where the recording is at hand, else the voice of the stack."""
    recording = SPEECH / "goforward.wav"
    if recording.exists():
        return recording
    path = tmp_path_factory.mktemp("speech") / "goforward.wav"
    audio = service.tts.synthesize(TEXT, sample_rate_hz=16_000).audio
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(8_000) + audio + bytes(16_000))
    return path


def said(text: str, speech: Path) -> bool:
    """Exactly, for the recording; the synthetic voice is understood less well."""
    return text.strip() == TEXT if speech.is_relative_to(SPEECH) else len(text.split()) >= 2


def config(path: Path | None = None, *, interim: bool = True, **changed: Any) -> Any:
    fields: dict[str, Any] = {"language_code": "en-US", "max_alternatives": 1}
    made = riva.client.StreamingRecognitionConfig(
        config=riva.client.RecognitionConfig(**fields | changed), interim_results=interim
    )
    if path is not None:
        riva.client.add_audio_file_specs_to_config(made, path)
    return made


def streamed(service: Service, path: Path, settings: Any) -> list[Any]:
    """The file as it is, its header in the first chunk, as the client's own scripts send it."""
    with riva.client.AudioChunkFileIterator(path, CHUNK) as chunks:
        return list(service.asr.streaming_response_generator(chunks, settings))


def finals(responses: list[Any]) -> list[str]:
    return [r.alternatives[0].transcript.strip() for x in responses for r in x.results if r.is_final]


# ---- recognition -------------------------------------------------------------------------------


def test_streaming_with_partials_stability_and_confidence_lines(service: Service, speech: Path) -> None:
    responses = streamed(service, speech, config(speech))
    interim = [r for x in responses for r in x.results if not r.is_final]
    assert interim
    assert all(0 < r.stability <= 1 for r in interim)
    assert said(finals(responses)[-1], speech)
    printed = io.StringIO()
    riva.client.print_streaming(iter(responses), output_file=printed, additional_info="confidence")
    for line in ("Stability:", "Confidence:", ">> ", "## "):
        assert line in printed.getvalue()
    shown = io.StringIO()
    riva.client.print_streaming(iter(responses), output_file=shown, show_intermediate=True)
    assert ">> " in shown.getvalue()


def test_interim_off_gives_finals_only(service: Service, speech: Path) -> None:
    responses = streamed(service, speech, config(speech, interim=False))
    assert all(r.is_final for x in responses for r in x.results)
    assert said(" ".join(finals(responses)), speech)


def test_word_times_in_the_clients_table(service: Service, speech: Path) -> None:
    responses = streamed(service, speech, config(speech, enable_word_time_offsets=True))
    words = [w for x in responses for r in x.results if r.is_final for w in r.alternatives[0].words]
    assert " ".join(w.word for w in words) == " ".join(finals(responses))
    length_ms = soundfile.info(str(speech)).duration * 1000
    times = [t for w in words for t in (w.start_time, w.end_time)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= length_ms
    printed = io.StringIO()
    riva.client.print_streaming(
        iter(responses), output_file=printed, additional_info="time", word_time_offsets=True
    )
    assert "Start (ms)" in printed.getvalue()


def test_offline(service: Service, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(speech, enable_word_time_offsets=True).config
    response = service.asr.offline_recognize(speech.read_bytes(), settings)
    riva.client.print_offline(response)
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("Final transcript:"))
    assert said(line.removeprefix("Final transcript:"), speech)
    assert response.results[0].alternatives[0].words
    future = service.asr.offline_recognize(speech.read_bytes(), settings, future=True)
    assert future.result().results == response.results


def test_simulated_real_time_takes_as_long_as_the_audio(service: Service, speech: Path) -> None:
    began = time.monotonic()
    first_partial = None
    with riva.client.AudioChunkFileIterator(speech, CHUNK, sleep_audio_length) as chunks:
        for response in service.asr.streaming_response_generator(chunks, config(speech)):
            if first_partial is None and any(r.alternatives for r in response.results):
                first_partial = time.monotonic() - began
    took = time.monotonic() - began
    length = soundfile.info(str(speech)).duration
    assert length <= took < length + 2.5
    assert first_partial is not None
    assert first_partial < took * 0.75


@pytest.mark.parametrize(
    ("name", "kind", "subtype"),
    [
        ("mulaw.wav", "WAV", "ULAW"),
        ("alaw.wav", "WAV", "ALAW"),
        ("pcm24.wav", "WAV", "PCM_24"),
        ("speech.flac", "FLAC", "PCM_16"),
        ("speech.ogg", "OGG", "OPUS"),
    ],
)
def test_files_of_other_kinds(
    service: Service, speech: Path, tmp_path: Path, name: str, kind: str, subtype: str
) -> None:
    samples, rate = soundfile.read(str(speech), dtype="int16")
    path = tmp_path / name
    soundfile.write(str(path), samples, rate, format=kind, subtype=subtype)
    text = " ".join(finals(streamed(service, path, config(path))))
    offline = service.asr.offline_recognize(path.read_bytes(), config().config)
    assert text == " ".join(r.alternatives[0].transcript.strip() for r in offline.results)
    heard, known = set(text.split()), set(TEXT.split())
    assert len(heard & known) >= 3 or not speech.is_relative_to(SPEECH), text


@pytest.mark.parametrize("encoding", ["LINEAR_PCM", "MULAW", "ALAW"])
def test_raw_audio_by_declared_encoding(service: Service, speech: Path, encoding: str) -> None:
    samples, rate = soundfile.read(str(speech), dtype="int16")
    raw = io.BytesIO()
    subtype = {"LINEAR_PCM": "PCM_16", "MULAW": "ULAW", "ALAW": "ALAW"}[encoding]
    soundfile.write(raw, samples, rate, format="RAW", subtype=subtype)
    data = raw.getvalue()
    settings = config(encoding=getattr(riva.client.AudioEncoding, encoding), sample_rate_hertz=rate)
    chunks = [data[i : i + 999] for i in range(0, len(data), 999)]
    text = " ".join(finals(list(service.asr.streaming_response_generator(chunks, settings))))
    assert len(set(text.split()) & set(TEXT.split())) >= 3 or not speech.is_relative_to(SPEECH), text


def test_pauses_make_several_finals_unless_endpointing_is_off(service: Service, speech: Path) -> None:
    samples, rate = soundfile.read(str(speech), dtype="int16")
    twice = np.concatenate((samples, np.zeros(rate * 2, np.int16), samples)).tobytes()
    chunks = [twice[i : i + 3_200] for i in range(0, len(twice), 3_200)]
    settings = config(sample_rate_hertz=rate, enable_word_time_offsets=True)
    responses = list(service.asr.streaming_response_generator(chunks, settings))
    assert len(finals(responses)) == 2
    assert all(said(text, speech) for text in finals(responses))
    second = [r for x in responses for r in x.results if r.is_final][1].alternatives[0].words[0]
    assert second.start_time > len(samples) * 1000 // rate, "times count from the start of the stream"
    riva.client.add_custom_configuration_to_config(settings, "parley.endpointing:off")
    assert len(finals(list(service.asr.streaming_response_generator(chunks, settings)))) == 1


def test_endpoint_parameters_of_the_clients_command_line(service: Service, speech: Path) -> None:
    samples, rate = soundfile.read(str(speech), dtype="int16")
    audio = np.concatenate((samples, np.zeros(rate * 2, np.int16))).tobytes()
    settings = config(sample_rate_hertz=rate)
    riva.client.add_endpoint_parameters_to_config(settings, -1, -1.0, 800, 320, -1.0, -1.0)
    responses = list(service.asr.streaming_response_generator([audio], settings))
    stabilities = [round(x.results[0].stability, 2) for x in responses if not x.results[0].is_final]
    assert 1.0 in stabilities, "the first pass of the end is a partial with stability 1"


@pytest.mark.parametrize("offline", [False, True])
def test_unknown_language_in_rivas_words(service: Service, speech: Path, offline: bool) -> None:
    settings = config(speech, language_code="ru-RU")

    def ask() -> object:
        if offline:
            return service.asr.offline_recognize(speech.read_bytes(), settings.config)
        return streamed(service, speech, settings)

    with pytest.raises(grpc.RpcError) as caught:
        ask()
    kind = "offline" if offline else "online"
    assert caught.value.details() == f"Error: Unavailable model requested. Lang: ru-RU, Type: {kind}"


def test_audio_before_the_config_is_refused(service: Service) -> None:
    with pytest.raises(grpc.RpcError, match="must hold streaming_config") as caught:
        list(
            service.asr.stub.StreamingRecognize(iter([rasr.StreamingRecognizeRequest(audio_content=b"\0\0")]))
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_recognition_config(service: Service) -> None:
    response = service.asr.stub.GetRivaSpeechRecognitionConfig(rasr.RivaSpeechRecognitionConfigRequest())
    listed = {
        (c.model_name, c.parameters["type"], c.parameters["language_code"]) for c in response.model_config
    }
    assert ("asr_pocketsphinx", "online", "en-US") in listed
    assert ("asr_pocketsphinx", "offline", "en-US") in listed


def test_two_clients_at_once_and_two_iterations(service: Service, speech: Path) -> None:
    def client(_: int) -> list[str]:
        own = Service(service.server, service.address)
        return [" ".join(finals(streamed(own, speech, config(speech)))) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        texts = [text for pair in pool.map(client, range(2)) for text in pair]
    assert len(texts) == 4
    assert all(said(text, speech) for text in texts)


def test_client_cancel_leaves_nothing(service: Service, speech: Path, triton_stack: Stack) -> None:
    proceed = threading.Event()

    def chunks() -> Iterator[bytes]:
        with riva.client.AudioChunkFileIterator(speech, CHUNK) as audio:
            for i, chunk in enumerate(audio):
                if i == 15:
                    proceed.wait(10)
                yield chunk

    def requests() -> Iterator[Any]:
        yield rasr.StreamingRecognizeRequest(streaming_config=config(speech))
        for chunk in chunks():
            yield rasr.StreamingRecognizeRequest(audio_content=chunk)

    for _ in range(4):
        proceed.clear()
        call = service.asr.stub.StreamingRecognize(requests())
        next(call)
        call.cancel()
        proceed.set()
        spoken = service.tts.stub.SynthesizeOnline(
            iter([rtts.SynthesizeSpeechRequest(text="count to twenty " * 20, language_code="en-US")])
        )
        next(spoken)
        spoken.cancel()
    assert said(" ".join(finals(streamed(service, speech, config(speech)))), speech)
    triton_stack.run(service.server.settled(), 10.0)


# ---- synthesis ---------------------------------------------------------------------------------

SENTENCE = "Please, tell me the weather tomorrow."


def pcm(audio: bytes) -> Any:
    return np.frombuffer(audio, "<i2").astype(float)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_synthesis_at_the_rate_asked_for(service: Service, rate: int) -> None:
    response = service.tts.synthesize(SENTENCE, sample_rate_hz=rate)
    seconds = len(response.audio) / 2 / rate
    assert 1.0 < seconds < 5.0
    assert np.sqrt(np.mean(pcm(response.audio) ** 2)) > 500
    assert response.meta.text == SENTENCE


def test_online_synthesis_is_the_offline_audio_and_comes_before_its_end(service: Service) -> None:
    whole = pcm(service.tts.synthesize(SENTENCE * 4, sample_rate_hz=16_000).audio)
    began = time.monotonic()
    first = None
    pieces = []
    for response in service.tts.synthesize_online(SENTENCE * 4, sample_rate_hz=16_000):
        first = first or time.monotonic() - began
        pieces.append(response.audio)
    took = time.monotonic() - began
    online = pcm(b"".join(pieces))
    assert first is not None
    assert first < took / 2
    assert len(pieces) > 5
    assert abs(len(online) - len(whole)) < 0.02 * len(whole)
    # espeak's phases differ from run to run; the loudness over time does not.
    n = min(len(online), len(whole)) // 320
    loudness = [np.sqrt((x[: n * 320].reshape(n, 320) ** 2).mean(axis=1)) for x in (online, whole)]
    assert np.corrcoef(*loudness)[0, 1] > 0.95


def test_online_synthesis_of_a_list_speaks_all_of_it(service: Service) -> None:
    parts = [SENTENCE, "What is weather tomorrow?"]
    together = sum(len(r.audio) for r in service.tts.synthesize_online(parts, sample_rate_hz=16_000))
    apart = sum(len(service.tts.synthesize(part, sample_rate_hz=16_000).audio) for part in parts)
    assert together == pytest.approx(apart, rel=0.02)


def test_ogg_opus_output(service: Service) -> None:
    audio = service.tts.synthesize(
        SENTENCE, encoding=riva.client.AudioEncoding.OGGOPUS, sample_rate_hz=24_000
    ).audio
    samples, rate = soundfile.read(io.BytesIO(audio))
    assert 1.0 < len(samples) / rate < 5.0


@pytest.mark.parametrize(
    ("changed", "details"),
    [
        ({"sample_rate_hz": 2}, "Invalid sample rate"),
        (
            {"language_code": "ru-RU", "voice_name": ""},
            "Model is not available on server: Voice  for language ru-RU not found.",
        ),
        (
            {"voice_name": "foo"},
            "Model is not available on server: Voice foo for language en-US not found. "
            "Please specify the voice name in your SynthesizeSpeechRequest.",
        ),
    ],
)
@pytest.mark.parametrize("online", [False, True])
def test_refusals_in_rivas_words(
    service: Service, changed: dict[str, Any], details: str, online: bool
) -> None:
    def ask() -> object:
        if online:
            return list(service.tts.synthesize_online(SENTENCE, **changed))
        return service.tts.synthesize(SENTENCE, **changed)

    with pytest.raises(grpc.RpcError) as caught:
        ask()
    assert details in str(caught.value.details())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_every_voice_that_the_client_lists_speaks(service: Service) -> None:
    response = service.tts.stub.GetRivaSynthesisConfig(rtts.RivaSynthesisConfigRequest())
    voices = [
        (f"{c.parameters['voice_name']}.{sub.split(':')[0]}", c.parameters["language_code"])
        for c in response.model_config
        for sub in c.parameters["subvoices"].split(",")
    ]
    assert ("espeak.en-us", "en-US") in voices
    for voice, language in voices:
        audio = service.tts.synthesize(
            "one", voice_name=voice, language_code=language, sample_rate_hz=16_000
        ).audio
        assert len(audio) > 3_200, voice


HEALTH = """
import sys, grpc
from riva.client.proto import health_pb2, health_pb2_grpc
stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(sys.argv[1]))
for name in sys.argv[2:]:
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(
        stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status))
"""


def test_health_through_the_clients_own_types(service: Service) -> None:
    """In a process of its own: the client's health types cannot live beside grpcio's."""
    names = ("", "nvidia.riva.asr.RivaSpeechRecognition", "nvidia.riva.tts.RivaSpeechSynthesis")
    ran = subprocess.run(
        [sys.executable, "-c", HEALTH, service.address, *names],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout.split() == ["SERVING"] * 3, ran.stderr
