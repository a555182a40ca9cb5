"""Any sequence of malformed messages is answered or refused with a clear status, and leaves nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_tts_pb2 as rtts

from tests.unit.riva.parts import Rig, loud

CLEAR = {grpc.StatusCode.INVALID_ARGUMENT}
ASR = "/nvidia.riva.asr.RivaSpeechRecognition/"
TTS = "/nvidia.riva.tts.RivaSpeechSynthesis/"


class Running:
    """The services in a loop of their own, since hypothesis runs its examples outside any."""

    def __init__(self) -> None:
        self.rig = Rig()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with self.rig.serve():
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Running:
        self._thread.start()
        self._ready.wait()
        self.tasks_at_rest = self.tasks()
        self.channel: Any = grpc.insecure_channel(self.rig.address)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running() as started:
        yield started


numbers = st.sampled_from([0, 1, -1, 2, 7, 20, 8_000, 16_000, 44_100, 2**31 - 1, -(2**31)])
floats = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, float("nan"), float("inf")])
words = st.sampled_from(
    ["", "en-US", "ru-RU", "asr_a", "x" * 300, "\0", "é", "parley.endpointing", "off", "true"]
)
binary = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"RIFF", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS\0\x02", loud(400).tobytes(), b"\0"]),
    st.builds(
        lambda head, tail: head + tail,
        st.sampled_from([b"RIFF\0\0\0\0WAVEfmt ", b"fLaC\0\0\0\x22"]),
        st.binary(max_size=80),
    ),
)
endpointing = st.builds(
    rasr.EndpointingConfig,
    stop_history=numbers,
    stop_threshold=floats,
    stop_history_eou=numbers,
    start_history=numbers,
)
configs = st.builds(
    rasr.RecognitionConfig,
    encoding=numbers,
    sample_rate_hertz=numbers,
    language_code=st.sampled_from(["en-US", "", "ru-RU"]),
    max_alternatives=numbers,
    audio_channel_count=numbers,
    model=st.sampled_from(["", "asr_a", "x"]),
    enable_separate_recognition_per_channel=st.booleans(),
    endpointing_config=st.none() | endpointing,
    custom_configuration=st.dictionaries(words, words, max_size=2),
    speech_contexts=st.lists(st.builds(rasr.SpeechContext, phrases=st.lists(words, max_size=3)), max_size=2),
)
plain = st.just(rasr.RecognitionConfig(encoding=1, sample_rate_hertz=16_000, language_code="en-US"))
first = st.builds(
    lambda config: rasr.StreamingRecognizeRequest(
        streaming_config=rasr.StreamingRecognitionConfig(config=config, interim_results=True)
    ),
    st.one_of(configs, plain, plain),
)
later = st.builds(
    lambda data, runtime: rasr.StreamingRecognizeRequest(audio_content=data, runtime_config=runtime),
    binary,
    st.dictionaries(st.sampled_from(["force_eou", "x"]), words, max_size=1),
)
messages = st.one_of(
    first.map(lambda m: m.SerializeToString()),
    later.map(lambda m: m.SerializeToString()),
    later.map(lambda m: m.SerializeToString()),
    st.binary(max_size=40),
)
streams = st.one_of(
    st.lists(messages, max_size=8),
    st.builds(lambda head, rest: [head.SerializeToString(), *rest], first, st.lists(messages, max_size=6)),
)
syntheses = st.builds(
    rtts.SynthesizeSpeechRequest,
    text=st.sampled_from(["", " ", "one two", "<speak>", "<speak>one</speak>", "x" * 3_000, "\0"]),
    language_code=st.sampled_from(["en-US", "", "ru-RU"]),
    encoding=numbers,
    sample_rate_hz=numbers,
    voice_name=st.sampled_from(["", "ann", "a.bob", "foo"]),
    custom_dictionary=words,
    custom_configuration=st.dictionaries(st.sampled_from(["speed", "style", "x"]), words, max_size=2),
    zero_shot_data=st.none() | st.builds(rtts.ZeroShotData, audio_prompt=binary, sample_rate_hz=numbers),
)


def outcome(call: Callable[[], object]) -> None:
    """Answered, or refused with a status that helps; anything else fails the test."""
    refused: grpc.RpcError | None = None
    try:
        call()
    except grpc.RpcError as error:
        refused = error
    if refused is not None:
        code, details = refused.code(), refused.details() or ""
        assert code in CLEAR, (code, details)
        assert details
        assert "Traceback" not in details
        assert "its log says why" not in details, "an exception nobody thought of"


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams)
def test_any_sequence_of_messages_to_streaming_recognize(running: Running, sent: list[bytes]) -> None:
    method = running.channel.stream_stream(ASR + "StreamingRecognize")
    outcome(lambda: list(method(iter(sent), timeout=20)))
    assert running.rig.asr.left_open == 0
    assert not running.rig.vad.open_streams
    running.rig.asr.calls.clear()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(configs, binary)
def test_any_recognize_request(running: Running, config: rasr.RecognitionConfig, data: bytes) -> None:
    request = rasr.RecognizeRequest(config=config, audio=data).SerializeToString()
    outcome(lambda: running.channel.unary_unary(ASR + "Recognize")(request, timeout=20))
    assert running.rig.asr.left_open == 0


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.one_of(syntheses.map(lambda m: m.SerializeToString()), st.binary(max_size=40)), max_size=4)
)
def test_any_sequence_of_messages_to_synthesize_online(running: Running, sent: list[bytes]) -> None:
    method = running.channel.stream_stream(TTS + "SynthesizeOnline")
    outcome(lambda: list(method(iter(sent), timeout=20)))
    if sent:
        outcome(lambda: running.channel.unary_unary(TTS + "Synthesize")(sent[0], timeout=20))
    assert running.rig.tts.cancelled == 0


def test_after_all_that_the_services_work_and_no_task_is_left(running: Running) -> None:
    request = rtts.SynthesizeSpeechRequest(text="one", language_code="en-US", sample_rate_hz=16_000)
    reply = running.channel.unary_unary(TTS + "Synthesize")(request.SerializeToString(), timeout=20)
    assert rtts.SynthesizeSpeechResponse.FromString(reply).audio
    assert running.tasks() <= running.tasks_at_rest + 2, "the two of the call that is just ending"
